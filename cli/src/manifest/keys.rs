//! Public keys from PEM files, in the form that the manifest has them.

use std::fs;
use std::path::Path;

use anyhow::Context;
use attestation::Digest;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// The digest of a workload owner's public key.
pub(super) fn workload_owner(path: &Path) -> Result<Digest, Failure> {
    let (label, der) = read(path)?;
    if label != PUBLIC_KEY {
        return Err(wrong_label(path, &label, "PUBLIC KEY"));
    }
    ::manifest::workload_owner(&der)
        .with_context(|| path.display().to_string())
        .map_err(Failure::Usage)
}

/// A seed-share owner's RSA public key, PKCS#1 DER.
pub(super) fn seedshare_owner(path: &Path) -> Result<Vec<u8>, Failure> {
    let (label, der) = read(path)?;
    if label != PUBLIC_KEY && label != "RSA PUBLIC KEY" {
        return Err(wrong_label(path, &label, "PUBLIC KEY or RSA PUBLIC KEY"));
    }
    ::manifest::rsa_public_key(&der).map_err(|error| {
        Failure::usage(format!(
            "{}: expected an RSA public key of 2048 to 8192 bits, got {error}",
            path.display()
        ))
    })
}

/// The digest of a simulated platform's key, given as a public or a private one.
pub(super) fn platform(path: &Path) -> Result<Digest, Failure> {
    let (label, der) = read(path)?;
    match label.as_str() {
        PUBLIC_KEY => ::manifest::workload_owner(&der)
            .ok()
            .filter(|_| der.len() == P256_SPKI_BYTES)
            .ok_or_else(|| {
                Failure::usage(format!(
                    "{}: expected an ECDSA key on P-256",
                    path.display()
                ))
            }),
        "PRIVATE KEY" => {
            let pem = text(path)?;
            attester::simulated::platform_key_digest(&pem)
                .with_context(|| path.display().to_string())
                .map_err(Failure::Usage)
        }
        _ => Err(wrong_label(path, &label, "PUBLIC KEY or PRIVATE KEY")),
    }
}

/// What the file holds: it may be a private key, given by mistake.
fn read(path: &Path) -> Result<(String, Zeroizing<Vec<u8>>), Failure> {
    let pem = text(path)?;
    let (label, der) = pem_rfc7468::decode_vec(pem.as_bytes()).map_err(|error| {
        Failure::usage(format!("{} is no key in PEM form: {error}", path.display()))
    })?;
    Ok((label.to_owned(), Zeroizing::new(der)))
}

fn text(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    Ok(Zeroizing::new(text?))
}

fn wrong_label(path: &Path, label: &str, want: &str) -> Failure {
    let path = path.display();
    Failure::usage(format!(
        "{path} is a {label}, not a {want}; make one: openssl pkey -in {path} -pubout"
    ))
}

const PUBLIC_KEY: &str = "PUBLIC KEY";
const P256_SPKI_BYTES: usize = 91;
