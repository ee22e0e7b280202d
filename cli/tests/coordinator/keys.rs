//! Everybody's keys, made once for all tests.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// The files of a working directory before anything is set: private keys (`NAME.pem`), public keys
/// (`NAME.pub.pem`), public keys as manifests name them (`NAME.der`).
pub(crate) static FILES: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments}: {output:?}");
    };
    for (owner, curve) in [
        ("alice", "P-384"),
        ("bob", "P-256"),
        ("carol", "P-384"),
        ("mallory", "P-256"),
    ] {
        openssl(&format!(
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:{curve} -out {owner}.pem"
        ));
        openssl(&format!(
            "pkey -in {owner}.pem -pubout -out {owner}.pub.pem"
        ));
        openssl(&format!(
            "pkey -in {owner}.pem -pubout -outform DER -out {owner}.der"
        ));
    }
    for owner in ["dora", "emil", "fay", "gus"] {
        openssl(&format!("genrsa -out {owner}.pem 2048"));
        openssl(&format!(
            "rsa -in {owner}.pem -RSAPublicKey_out -outform DER -out {owner}.der"
        ));
    }
    openssl("rsa -in dora.pem -aes128 -passout pass:secret -out encrypted.pem");
    read(dir.path())
});

fn read(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    });
    files.collect()
}

/// What must never be printed: the lines of every private key.
pub(crate) fn secrets() -> impl Iterator<Item = &'static str> {
    let private = FILES.iter().filter_map(|(_, contents)| {
        let text = std::str::from_utf8(contents).ok()?;
        text.contains("PRIVATE KEY-----").then_some(text)
    });
    private
        .flat_map(str::lines)
        .filter(|line| line.len() > 40 && !line.starts_with("-----"))
}

#[test]
fn there_are_secrets_that_could_be_printed() {
    assert!(secrets().count() > 100);
}
