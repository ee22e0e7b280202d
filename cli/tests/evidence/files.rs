//! Files that are not there, not readable, empty, endless, or something else altogether.

use std::fs::File;

use crate::run::{Temporary, evidence, refusal, refused};

const REPORT: &str = "snp/trustee/test-report.bin";
const VCEK: &str = "snp/trustee/test-vcek.der";

#[test]
fn a_file_that_can_not_be_read_is_wrong_usage_and_named() {
    let good = format!("--tee sev-snp --evidence {REPORT} --certs {VCEK}");
    for (arguments, path, why) in [
        (
            "verify --tee sev-snp --evidence nowhere".to_owned(),
            "nowhere",
            "No such file",
        ),
        (
            "verify --tee tdx --evidence nowhere".to_owned(),
            "nowhere",
            "No such file",
        ),
        (
            "verify --tee tdx --evidence snp".to_owned(),
            "snp",
            "Is a directory",
        ),
        (format!("verify {good} nowhere"), "nowhere", "No such file"),
        (format!("verify {good} snp"), "snp", "Is a directory"),
        (
            format!("verify {good} --crl nowhere"),
            "nowhere",
            "No such file",
        ),
        (
            format!("verify {good} --reference nowhere"),
            "nowhere",
            "No such file",
        ),
        (
            format!("verify --tee tdx --evidence {REPORT} --collateral snp"),
            "snp",
            "Is a directory",
        ),
        (
            "show --evidence nowhere".to_owned(),
            "nowhere",
            "No such file",
        ),
        ("show --evidence snp".to_owned(), "snp", "Is a directory"),
    ] {
        for json in ["", " --json"] {
            let run = evidence(&format!("{arguments}{json}"));
            assert_eq!(run.code, 2, "{run:?}");
            assert_eq!(run.stdout, "");
            let message = format!("error: can't read {path}: {why}");
            assert!(run.stderr.starts_with(&message), "{run:?}");
        }
    }
}

#[test]
fn files_that_hold_nothing_or_garbage_are_refused() {
    let garbage: Vec<u8> = (0..5000_u32).map(|it| (it * 7919 % 251) as u8).collect();
    for contents in [
        &b""[..],
        b"\n",
        b"0",
        b"\x30",
        b"\x30\x82\xff\xff",
        b"hello\n",
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"\xff\xfe\x00\x00",
        &garbage,
    ] {
        let file = Temporary::new(contents);
        for arguments in [
            format!("--tee sev-snp --evidence {file} --certs {VCEK}"),
            format!("--tee sev-snp --evidence {REPORT} --certs {file}"),
            format!("--tee sev-snp --evidence {REPORT} --certs {VCEK} {file}"),
            format!("--tee sev-snp --evidence {REPORT} --certs {VCEK} --crl {file}"),
            format!("--tee tdx --evidence {file}"),
        ] {
            let class = &refused(&arguments)["class"];
            assert_eq!(class, "malformed", "{contents:?} {arguments}");
        }
    }
}

/// A device that never ends proves more than a large file: it can't be read to its end.
#[test]
fn a_file_without_end_is_refused_at_its_limit() {
    let huge = Temporary::new("");
    File::options()
        .write(true)
        .open(huge.to_string())
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    for file in ["/dev/zero", &huge.to_string()] {
        for arguments in [
            format!("--tee sev-snp --evidence {file}"),
            format!("--tee tdx --evidence {file}"),
            format!("--tee sev-snp --evidence {REPORT} --certs {VCEK} {file}"),
            format!("--tee sev-snp --evidence {REPORT} --certs {VCEK} --crl {file}"),
            format!("--tee tdx --evidence {REPORT} --collateral {file}"),
        ] {
            assert_eq!(refusal(&arguments).0, "evidence-malformed", "{arguments}");
        }
        let run = evidence(&format!("show --evidence {file}"));
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stdout.contains("more than 262144 bytes"), "{run:?}");
        let arguments = format!("--tee sev-snp --evidence {REPORT} --reference {file}");
        let run = evidence(&format!("verify {arguments}"));
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains(" bytes, want at most "), "{run:?}");
    }
}

#[test]
fn what_a_certificate_says_of_itself_can_not_move_the_cursor() {
    let mut der = crate::run::vector(VCEK);
    // In the issuer's name, "SEV-Milan".
    let at = der.windows(9).position(|it| it == b"SEV-Milan").unwrap();
    der[at..at + 4].copy_from_slice(b"\x1b[2J");
    let file = Temporary::new(der);
    for others in ["", "snp/ca/ask_ark_milan.pem"] {
        // That nothing printed has an escape is checked for every run.
        refusal(&format!(
            "--tee sev-snp --evidence {REPORT} --certs {file} {others}"
        ));
    }
}
