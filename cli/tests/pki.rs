//! `sealwire pki`, as an operator meets it: files, messages, exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

#[test]
fn without_arguments_it_says_what_to_do_next() {
    let run = Bed::new().sealwire("");
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("sealwire pki init --dir"), "{run:?}");
}

#[test]
fn every_help_teaches_with_examples() {
    for command in ["--help", "pki init --help", "pki issue --help"] {
        let run = Bed::new().sealwire(command);
        assert_eq!(run.code, 0);
        assert!(run.stdout.contains("Example"), "{run:?}");
    }
}

#[test]
fn init_and_issue_say_what_they_wrote() {
    let bed = Bed::new();
    let init = bed.sealwire("pki init --dir pki --trust-domain mesh.local");
    assert_eq!(init.code, 0, "{init:?}");
    for file in [
        "coordinator-root-ca.pem",
        "root-key.pem",
        "intermediate.pem",
        "mesh-ca.pem",
        "mesh-ca-key.pem",
    ] {
        assert!(init.stdout.contains(&format!("pki/{file}\n")), "{init:?}");
        assert!(bed.path(&format!("pki/{file}")).exists());
    }

    let issue =
        bed.sealwire("pki issue --dir pki --name web --not-after 2030-01-02T03:04:05Z --out tls");
    assert_eq!(issue.code, 0, "{issue:?}");
    assert!(
        issue.stdout.starts_with(
            "issued spiffe://mesh.local/ns/default/sa/web valid until 2030-01-02T03:04:05Z\n"
        ),
        "{issue:?}"
    );
    for file in [
        "coordinator-root-ca.pem",
        "mesh-ca.pem",
        "key.pem",
        "certChain.pem",
    ] {
        assert!(issue.stdout.contains(&format!("tls/{file}\n")), "{issue:?}");
        assert!(bed.path(&format!("tls/{file}")).exists());
    }
}

#[test]
fn issue_writes_the_names_and_the_times_asked_for() {
    let bed = Bed::with_pki();
    let run = bed.sealwire(
        "pki issue --dir pki --namespace shop --name db --dns db.shop.svc --dns db --ip 10.0.0.7 \
         --not-before 2020-01-01T00:00:00Z --lifetime 2s --out tls",
    );
    assert_eq!(run.code, 0, "{run:?}");
    let text = bed.certificate("subjectAltName");
    assert!(
        text.contains(
            "URI:spiffe://mesh.local/ns/shop/sa/db, DNS:db.shop.svc, DNS:db, IP Address:10.0.0.7\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("notBefore=Jan  1 00:00:00 2020 GMT"),
        "{text}"
    );
    assert!(text.contains("notAfter=Jan  1 00:00:02 2020 GMT"), "{text}");
}

#[test]
fn a_whole_spiffe_id_takes_the_place_of_the_name() {
    let bed = Bed::with_pki();
    for name in ["", "--name ignored"] {
        let run = bed.sealwire(&format!(
            "pki issue --dir pki {name} --spiffe-id spiffe://mesh.local/batch/nightly --out tls"
        ));
        assert_eq!(run.code, 0, "{run:?}");
        let text = bed.certificate("subjectAltName");
        assert!(
            text.contains("URI:spiffe://mesh.local/batch/nightly\n"),
            "{text}"
        );
    }
}

#[test]
fn wrong_usage_is_explained_and_writes_nothing() {
    let bed = Bed::with_pki();
    for (arguments, says) in [
        ("--name web --dns *.example.com", "wildcard"),
        ("--name web --dns 10.0.0.1", "IP addresses"),
        ("--name web --ip web", "--ip"),
        ("--name a/b", "--name \"a/b\""),
        ("--name web --namespace ..", "--namespace \"..\""),
        ("--spiffe-id https://mesh.local/web", "spiffe://"),
        (
            "--spiffe-id spiffe://other.local/web",
            "trust domain mesh.local",
        ),
        ("--spiffe-id spiffe://mesh.local", "has a path"),
        ("--name web --lifetime 20000d", "shorter lifetime"),
        ("--name web --lifetime 24", "24h"),
        ("--name web --not-before yesterday", "RFC 3339"),
        (
            "--name web --not-after 2020-01-01T00:00:00Z",
            "the end is before the beginning",
        ),
        (
            "--name web --lifetime 1h --not-after 2030-01-01T00:00:00Z",
            "cannot be used with",
        ),
        ("", "--name"),
    ] {
        let run = bed.sealwire(&format!("pki issue --dir pki --out tls {arguments}"));
        assert_eq!(run.code, 2, "{arguments}: {run:?}");
        assert!(run.stderr.contains(says), "{arguments}: {run:?}");
        assert!(!bed.path("tls").exists(), "{arguments}");
    }
}

#[test]
fn init_does_not_overwrite_and_says_what_to_do() {
    let bed = Bed::with_pki();
    let run = bed.sealwire("pki init --dir pki --trust-domain mesh.local");
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("pki is not empty"), "{run:?}");
    assert!(run.stderr.contains("choose another directory"), "{run:?}");
}

#[test]
fn issue_without_a_pki_says_how_to_make_one() {
    let run = Bed::new().sealwire("pki issue --dir nowhere --name web --out tls");
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("nowhere/coordinator-root-ca.pem"),
        "{run:?}"
    );
    assert!(run.stderr.contains("sealwire pki init"), "{run:?}");
}

#[test]
fn a_directory_that_cannot_be_written_is_named_with_the_reason() {
    let bed = Bed::with_pki();
    std::fs::write(bed.path("file"), "").unwrap();
    let run = bed.sealwire("pki issue --dir pki --name web --out file/tls");
    assert_eq!(run.code, 1);
    assert!(
        run.stderr
            .contains("cannot write file/tls: Not a directory"),
        "{run:?}"
    );
}

/// An empty directory to run the binary in.
struct Bed(TempDir);

#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Bed {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with_pki() -> Self {
        let bed = Self::new();
        let run = bed.sealwire("pki init --dir pki --trust-domain mesh.local");
        assert_eq!(run.code, 0, "{run:?}");
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sealwire(&self, arguments: &str) -> Run {
        self.run(env!("CARGO_BIN_EXE_sealwire"), arguments)
    }

    fn certificate(&self, extension: &str) -> String {
        let arguments = format!("x509 -in tls/certChain.pem -noout -dates -ext {extension}");
        self.run("openssl", &arguments).stdout
    }

    fn run(&self, program: &str, arguments: &str) -> Run {
        let output = Command::new(program)
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .unwrap();
        Run {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
