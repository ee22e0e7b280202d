//! A directory with everybody's keys, a manifest, and a Coordinator that runs in it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use attestation::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::keys;
use crate::process::{Process, free_port};

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Fails with this exit code, says all of `parts`, and nothing on standard output.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part}: {self:?}");
        }
        self
    }
}

pub(crate) struct Bed {
    dir: TempDir,
    port: u16,
    flags: String,
    process: Option<Process>,
}

impl Bed {
    /// No Coordinator runs yet.
    pub(crate) fn new() -> Self {
        let bed = Self {
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            flags: String::new(),
            process: None,
        };
        for (name, contents) in keys::FILES.iter() {
            fs::write(bed.path(name), contents).unwrap();
        }
        for policy in ["coordinator", "web", "db"] {
            fs::write(
                bed.path(&format!("{policy}.rego")),
                format!("package {policy}\n"),
            )
            .unwrap();
        }
        bed.sealwire("evidence platform-key -o platform.pem").ok();
        bed.sealwire(
            "evidence simulate --platform-key platform.pem --policy coordinator.rego \
             -o coordinator-tee.json",
        )
        .ok();
        let manifest = bed.manifest();
        bed.write_manifest("manifest.json", &manifest);
        bed
    }

    /// A Coordinator that was never given a manifest.
    pub(crate) fn with_coordinator() -> Self {
        Self::with_flags("")
    }

    pub(crate) fn with_flags(flags: &str) -> Self {
        let mut bed = Self::new();
        flags.clone_into(&mut bed.flags);
        bed.start();
        bed
    }

    /// A Coordinator with `manifest.json`.
    pub(crate) fn with_manifest() -> Self {
        let bed = Self::with_coordinator();
        bed.ask("set", "").ok();
        bed
    }

    pub(crate) fn start(&mut self) {
        let (process, port) = Process::start(self.dir.path(), &self.flags);
        self.process = Some(process);
        self.port = port;
    }

    /// Starts the Coordinator where [`Self::address`] says already, unless that is taken.
    #[must_use]
    pub(crate) fn start_here(&mut self) -> bool {
        self.process = Process::start_at(self.dir.path(), self.port, &self.flags);
        self.process.is_some()
    }

    /// Kills the Coordinator; its secrets are gone.
    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Two of three owners of each kind decide. Rotation is strict, so that history grows by one
    /// transition each time.
    pub(crate) fn manifest(&self) -> Value {
        let owners = ["alice", "bob", "carol"].map(|it| self.digest_of(&format!("{it}.der")));
        let share_owners = ["dora", "emil", "fay"].map(|it| self.share_owner(it));
        json!({
            "TrustDomain": "mesh.test",
            "Policies": {
                self.digest_of("coordinator.rego"): { "SANs": ["coordinator"], "Role": "coordinator" },
                self.digest_of("web.rego"): { "SANs": ["web"] },
                self.digest_of("db.rego"): { "SANs": ["db"], "AllowedPeers": ["web"] },
            },
            "ReferenceValues": { "simulated": [{
                "TrustedMeasurement": "00".repeat(48),
                "PlatformKeys": [self.platform_key()],
            }] },
            "WorkloadOwnerKeyDigests": owners,
            "UpdateQuorum": 2,
            "SeedshareOwnerPubKeys": share_owners,
            "SeedshareQuorum": 2,
            "Rotation": { "Mode": "strict" },
        })
    }

    /// Writes another manifest, which differs in how long certificates are valid.
    pub(crate) fn next_manifest(&self, name: &str, lifetime: &str) {
        let mut manifest = self.manifest();
        manifest["CertificateLifetime"] = lifetime.into();
        self.write_manifest(name, &manifest);
    }

    pub(crate) fn write_manifest(&self, name: &str, manifest: &Value) {
        fs::write(self.path(name), format!("{manifest:#}\n")).unwrap();
    }

    pub(crate) fn digest_of(&self, name: &str) -> String {
        Digest::of(&self.read(name)).to_string()
    }

    pub(crate) fn share_owner(&self, name: &str) -> String {
        hex::encode(self.read(&format!("{name}.der")))
    }

    fn platform_key(&self) -> String {
        self.openssl("pkey -in platform.pem -pubout -outform DER -out platform.der");
        self.digest_of("platform.der")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    /// The names in a directory.
    pub(crate) fn names(&self, dir: &str) -> BTreeSet<String> {
        let names = fs::read_dir(self.path(dir)).unwrap();
        names
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A command to the Coordinator, about `manifest.json`.
    pub(crate) fn ask(&self, command: &str, arguments: &str) -> Run {
        self.ask_with(
            command,
            "manifest.json",
            &format!("--allow-simulated-tee {arguments}"),
        )
    }

    /// A command to the Coordinator, about a manifest.
    pub(crate) fn ask_with(&self, command: &str, manifest: &str, arguments: &str) -> Run {
        let address = self.address();
        self.sealwire(&format!("{command} -c {address} -m {manifest} {arguments}"))
    }

    /// What `sealwire status --json` says.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.ask("status", "--json").ok().stdout).unwrap()
    }

    /// The hash of the latest transition.
    pub(crate) fn head(&self) -> String {
        self.status()["transition"].as_str().unwrap().to_owned()
    }

    /// Two owners give their shares.
    pub(crate) fn recover(&self) {
        for owner in ["dora", "emil"] {
            self.ask(
                "recover",
                &format!("--seedshare-owner-key {owner}.pem --verified none"),
            )
            .ok();
        }
    }

    pub(crate) fn sealwire(&self, arguments: &str) -> Run {
        let run = self.run(env!("CARGO_BIN_EXE_sealwire"), arguments);
        for output in [&run.stdout, &run.stderr] {
            assert!(
                !output.contains('\x1b'),
                "colour without a terminal: {run:?}"
            );
            let told = keys::secrets().find(|secret| output.contains(secret));
            assert_eq!(told, None, "a private key is printed: {run:?}");
        }
        run
    }

    pub(crate) fn openssl(&self, arguments: &str) {
        self.run("openssl", arguments).ok();
    }

    pub(crate) fn run(&self, program: &str, arguments: &str) -> Run {
        let output = Command::new(program)
            .args(arguments.split_whitespace())
            .current_dir(self.dir.path())
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env_remove("SEALWIRE_COORDINATOR_USER_API")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Run {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
