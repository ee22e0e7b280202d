//! What pkilint, the PKIX linter of those who write the standards, has to say of every kind of
//! certificate. It comes from the Python package index; without that the test says it is skipped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod claims;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use attestation::Tee;
use attestation::identity::{SpiffeId, TrustDomain};
use coordinator::pki::{Curve, MeshCa, PrivateKey, Root, Validity, WorkloadNames};
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use time::OffsetDateTime;

#[test]
fn pkilint_objects_to_nothing_but_the_scheme_spiffe() {
    let linter = match Linter::install() {
        Ok(linter) => linter,
        Err(reason) => return skip(&reason),
    };
    let certificates = Certificates::issue();
    let Certificates {
        directory,
        root,
        intermediate,
        mesh_ca,
        leaves,
    } = &certificates;
    let ca = "spiffe://mesh.local";
    let workload = "spiffe://mesh.local/ns/default/sa/web";
    let cas = [root, intermediate, mesh_ca].map(|name| (*name, ca));
    let leaves = leaves.iter().map(|name| (name.as_str(), workload));
    for (certificate, uri) in cas.into_iter().chain(leaves) {
        let path = directory.path().join(certificate);
        let findings = linter.lint("lint_pkix_cert", &[&path]);
        // Its library of validators knows a list of schemes, which has no `spiffe`; RFC 3986 lets
        // anybody have one.
        let known = format!(
            "GeneralNameUriSyntaxValidator ERROR pkix.invalid_uri_syntax \
             Invalid URI syntax: \"{uri}\""
        );
        assert_eq!(findings, [known], "{certificate}");
    }
}

#[test]
fn pkilint_finds_each_certificate_in_keeping_with_its_issuers() {
    let linter = match Linter::install() {
        Ok(linter) => linter,
        Err(reason) => return skip(&reason),
    };
    let certificates = Certificates::issue();
    let Certificates {
        directory,
        root,
        intermediate,
        mesh_ca,
        leaves,
    } = &certificates;
    let chain = |issuer: &str, subject: &str| {
        let [issuer, subject] = [issuer, subject].map(|name| directory.path().join(name));
        linter.lint("lint_pkix_signer_signee_cert_chain", &[&issuer, &subject])
    };
    let none: [String; 0] = [];
    assert_eq!(chain(root, intermediate), none);
    for leaf in leaves {
        assert_eq!(chain(intermediate, leaf), none, "{leaf}");
        assert_eq!(chain(mesh_ca, leaf), none, "{leaf}");
    }
    let mismatched = chain(root, mesh_ca);
    assert!(!mismatched.is_empty(), "a foreign issuer goes unnoticed");
}

/// Every kind of certificate, each in a file of this name.
struct Certificates {
    directory: tempfile::TempDir,
    root: &'static str,
    intermediate: &'static str,
    mesh_ca: &'static str,
    leaves: Vec<String>,
}

impl Certificates {
    fn issue() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mesh = TrustDomain::parse("mesh.local").unwrap();
        let now = OffsetDateTime::now_utc();
        let day = Validity::lasting(now, Duration::from_hours(24)).unwrap();
        let years = Validity::lasting(now, Duration::from_hours(24 * 3650)).unwrap();
        let root = Root::create(&mesh, PrivateKey::generate(Curve::P384).unwrap(), years).unwrap();
        let mesh_ca = root.new_mesh_ca(years).unwrap();
        let write = |name: &str, der: &CertificateDer<'_>| {
            fs::write(directory.path().join(name), der).unwrap();
        };
        write("root.der", root.certificate().der());
        write("intermediate.der", mesh_ca.intermediate().der());
        write("mesh-ca.der", mesh_ca.certificate().der());
        let names = WorkloadNames {
            spiffe_id: SpiffeId::workload(&mesh, "default", "web").unwrap(),
            dns: vec!["web.default.svc".parse().unwrap()],
            ip: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        };
        let leaves = [None]
            .into_iter()
            .chain(Tee::ALL.map(Some))
            .map(|tee| {
                let name = format!("{}.der", tee.map_or("unattested", Tee::as_str));
                write(&name, &leaf(&mesh_ca, &names, day, tee));
                name
            })
            .collect();
        Self {
            directory,
            root: "root.der",
            intermediate: "intermediate.der",
            mesh_ca: "mesh-ca.der",
            leaves,
        }
    }
}

fn leaf(
    mesh_ca: &MeshCa,
    names: &WorkloadNames,
    validity: Validity,
    tee: Option<Tee>,
) -> CertificateDer<'static> {
    let key = PrivateKey::generate(Curve::P256).unwrap().public_key();
    let issued = match tee {
        Some(tee) => {
            let evidence = claims::evidence(tee);
            mesh_ca.issue_attested(names, validity, &key, &claims::claims(&evidence))
        }
        None => mesh_ca.issue(names, validity, &key),
    };
    issued.unwrap().chain()[0].clone()
}

/// pkilint in a virtual environment, which stays for the next run.
struct Linter(PathBuf);

impl Linter {
    /// Why not, where Python or its package index is not to be had.
    fn install() -> Result<Self, String> {
        static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap();
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pkilint-{VERSION}"));
        let complete = directory.join("complete");
        if !complete.exists() {
            run(Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&directory))?;
            run(Command::new(directory.join("bin/pip"))
                .args(["install", "--quiet", "--disable-pip-version-check"])
                .args(["--no-input", "--retries", "1", "--timeout", "15"])
                .arg(format!("pkilint=={VERSION}")))?;
            fs::write(&complete, "").unwrap();
        }
        Ok(Self(directory))
    }

    /// Errors and warnings, one a line.
    fn lint(&self, program: &str, files: &[&Path]) -> Vec<String> {
        let output = Command::new(self.0.join("bin").join(program))
            .args(["lint", "--severity", "WARNING", "--format", "JSON"])
            .args(["--document-format", "DER"])
            .args(files)
            .output()
            .unwrap();
        let report: Value = match serde_json::from_slice(&output.stdout) {
            Ok(report) => report,
            Err(_) => return vec![String::from_utf8_lossy(&output.stderr).into_owned()],
        };
        let list = |value: &Value| value.as_array().unwrap().clone();
        let mut findings = Vec::new();
        for result in list(&report["results"]) {
            for finding in list(&result["finding_descriptions"]) {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let [validator, severity, code, message] = [
                    &result["validator"],
                    &finding["severity"],
                    &finding["code"],
                    &finding["message"],
                ]
                .map(text);
                findings.push(format!("{validator} {severity} {code} {message}"));
            }
        }
        findings
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rfind(|line| !line.trim().is_empty());
    Err(format!("{program}: {}", last.unwrap_or("it failed")))
}

/// Says on standard error, and in the file that `SEALWIRE_SKIP_LOG` names, that the test of this
/// thread could not run.
fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {reason}", thread.name().unwrap_or("a test"));
    // Not eprintln!, which libtest swallows when a test passes.
    let _ = writeln!(std::io::stderr(), "{line}");
    if let Some(path) = std::env::var_os("SEALWIRE_SKIP_LOG")
        && let Ok(mut log) = File::options().create(true).append(true).open(path)
    {
        let _ = writeln!(log, "{line}");
    }
}

const VERSION: &str = "0.13.3";
