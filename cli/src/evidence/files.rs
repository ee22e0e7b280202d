//! Evidence and what goes with it, as files of whichever common form.

use std::fs;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::failure::Failure;

/// Raw bytes, or hexadecimal digits with white space anywhere.
pub(super) fn binary_or_hex(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = read(path)?;
    let is_hex = |byte: &u8| byte.is_ascii_hexdigit() || byte.is_ascii_whitespace();
    if bytes.is_empty() || !bytes.iter().all(is_hex) {
        return Ok(bytes);
    }
    let digits: Vec<u8> = bytes
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    hex::decode(&digits).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Every certificate of every file, DER; a file has one in DER or any number in PEM.
pub(super) fn certificates(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut all = Vec::new();
    for path in paths {
        let bytes = read(path)?;
        if !bytes.starts_with(b"\x30") {
            for certificate in CertificateDer::pem_slice_iter(&bytes) {
                let certificate = certificate
                    .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
                all.push(certificate.to_vec());
            }
        } else {
            all.push(bytes);
        }
    }
    Ok(all)
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path)
        .map_err(|error| Failure::usage(format!("can't read {}: {error}", path.display())))
}
