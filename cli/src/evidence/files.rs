//! Evidence and what goes with it, as files of whichever common form.
//!
//! A file that can't be read is wrong usage. What a file holds is part of what is judged: it is
//! refused, with the code of malformed evidence.

use std::path::{Path, PathBuf};

use attestation::{Code, Evidence, Refusal};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::judgement::refused;
use crate::failure::Failure;
use crate::files::read_start;

/// How files are read, and a refusal is told.
pub(super) struct Files {
    pub(super) as_json: bool,
}

impl Files {
    /// A report or quote: raw bytes, or hexadecimal digits, which may begin with `0x` and have white
    /// space anywhere.
    pub(super) fn evidence(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        let bytes = self.read("evidence", path)?;
        let is_hex = |byte: &u8| byte.is_ascii_hexdigit() || byte.is_ascii_whitespace();
        let text = bytes.trim_ascii_start();
        let text = text.strip_prefix(b"0x").unwrap_or(text);
        if text.is_empty() || !text.iter().all(is_hex) {
            return Ok(bytes);
        }
        let digits: Vec<u8> = text
            .iter()
            .copied()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        let want = "bytes, or two hexadecimal digits for each";
        hex::decode(&digits).map_err(|error| self.malformed("evidence", error, want))
    }

    /// Every certificate of every file, DER; a file has one in DER or any number in PEM.
    pub(super) fn certificates(&self, paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, Failure> {
        let mut all = Vec::new();
        for path in paths {
            let bytes = self.read("certs", path)?;
            if !contains(&bytes, b"-----BEGIN ") {
                all.push(bytes);
                continue;
            }
            let before = all.len();
            for certificate in CertificateDer::pem_slice_iter(&bytes) {
                let certificate =
                    certificate.map_err(|error| self.malformed("certs", error, "PEM"))?;
                all.push(certificate.to_vec());
            }
            if all.len() == before {
                return Err(self.malformed("certs", "other PEM", "BEGIN CERTIFICATE"));
            }
        }
        Ok(all)
    }

    /// A revocation list, or collateral.
    pub(super) fn read(&self, field: &str, path: &Path) -> Result<Vec<u8>, Failure> {
        let bytes = read_start(path, MAX_BYTES + 1)?;
        if bytes.len() > MAX_BYTES {
            let (got, want) = (
                format!("more than {MAX_BYTES} bytes"),
                format!("at most {MAX_BYTES} bytes"),
            );
            return Err(self.malformed(field, got, &want));
        }
        Ok(bytes)
    }

    fn malformed(&self, field: &str, got: impl std::fmt::Display, want: &str) -> Failure {
        let refusal = Refusal::new(Code::Malformed, field, got, want);
        refused(&refusal.into(), self.as_json)
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|it| it == text)
}

/// No session could carry more.
const MAX_BYTES: usize = Evidence::MAX_BYTES;
