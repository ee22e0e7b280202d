//! A simulated TEE as a file, which stands for a machine and the guest on it.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use attestation::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::error::AttesterError;
use crate::simulated::{Simulated, SimulatedOptions};

/// What `sealwire evidence simulate` writes: JSON.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct SimulatedTeeFile {
    /// Says that none of it protects anything.
    warning: String,
    /// P-256, PKCS #8, PEM.
    platform_key: Zeroizing<String>,
    /// 96 hexadecimal digits.
    measurement: String,
    /// The policy's hash: 64 hexadecimal digits.
    policy: String,
    /// 32 hexadecimal digits.
    platform: String,
}

impl SimulatedTeeFile {
    /// A machine `platform` with `platform_key`, on which a guest of `measurement` runs under
    /// `policy`.
    pub fn new(
        platform_key: Zeroizing<String>,
        measurement: &[u8; 48],
        policy: Digest,
        platform: &[u8; 16],
    ) -> Self {
        Self {
            warning: WARNING.to_owned(),
            platform_key,
            measurement: hex::encode(measurement),
            policy: policy.to_string(),
            platform: hex::encode(platform),
        }
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, AttesterError> {
        let named = |problem| AttesterError::SimulatedTeeFile {
            path: path.to_owned(),
            problem,
        };
        let text = fs::read(path).map(Zeroizing::new);
        let text = text.map_err(|error| named(SimulatedTeeFileProblem::Read(error)))?;
        let file: Self = serde_json::from_slice(&text)
            .map_err(|error| named(SimulatedTeeFileProblem::Json(error)))?;
        file.options().map_err(named)?;
        Ok(file)
    }

    /// The file's text. It has the platform's private key in it.
    pub fn to_json(&self) -> Zeroizing<String> {
        // The fields are strings, which always have a JSON form.
        Zeroizing::new(serde_json::to_string_pretty(self).unwrap_or_default() + "\n")
    }

    /// The TEE that the file describes.
    pub fn source(&self) -> Result<Simulated, AttesterError> {
        let options = self.options();
        Simulated::new(options.map_err(|problem| AttesterError::SimulatedTeeFile {
            path: PathBuf::new(),
            problem,
        })?)
    }

    fn options(&self) -> Result<SimulatedOptions, SimulatedTeeFileProblem> {
        Ok(SimulatedOptions {
            key_pem: self.platform_key.clone(),
            measurement: value("Measurement", &self.measurement)?,
            host_data: Digest(value("Policy", &self.policy)?),
            platform: value("Platform", &self.platform)?,
        })
    }
}

fn value<const N: usize>(
    field: &'static str,
    text: &str,
) -> Result<[u8; N], SimulatedTeeFileProblem> {
    let mut value = [0; N];
    hex::decode_to_slice(text, &mut value).map_err(|_| SimulatedTeeFileProblem::Hex {
        field,
        digits: 2 * N,
    })?;
    Ok(value)
}

impl fmt::Debug for SimulatedTeeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedTeeFile")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Why a file describes no simulated TEE.
#[derive(Debug, Error)]
pub enum SimulatedTeeFileProblem {
    /// The system does not give it.
    #[error("{0}")]
    Read(io::Error),
    /// It is not JSON with the fields that `sealwire evidence simulate` writes.
    #[error("{0}")]
    Json(serde_json::Error),
    /// A field is not what it must be.
    #[error("{field} is not {digits} hexadecimal digits")]
    Hex {
        /// The field.
        field: &'static str,
        /// How many digits it has.
        digits: usize,
    },
}

const WARNING: &str = "SIMULATED - INSECURE: this file replaces a TEE and protects nothing";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated::generate_platform_key;
    use crate::source::EvidenceSource;
    use attestation::ReportData;

    fn file() -> SimulatedTeeFile {
        let key = generate_platform_key().unwrap();
        SimulatedTeeFile::new(key, &[1; 48], Digest([2; 32]), &[3; 16])
    }

    fn read(text: &str) -> Result<SimulatedTeeFile, AttesterError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tee.json");
        fs::write(&path, text).unwrap();
        SimulatedTeeFile::read(&path)
    }

    #[test]
    fn a_file_gives_the_tee_that_was_written() {
        let source = read(&file().to_json()).unwrap().source().unwrap();
        let evidence = source.evidence(&ReportData([4; 64])).unwrap();
        let attestation::Evidence::Simulated(evidence) = evidence else {
            panic!("another TEE");
        };
        let report = attestation::simulated::authenticate(&evidence).unwrap();
        assert_eq!(report.report().measurement, [1; 48]);
        assert_eq!(report.report().host_data, Digest([2; 32]));
        assert_eq!(report.report().platform, [3; 16]);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let text = file().to_json().replace(&"01".repeat(48), "01");
        let error = read(&text).unwrap_err().to_string();
        assert!(
            error.contains("Measurement is not 96 hexadecimal digits"),
            "{error}"
        );
        let text = file().to_json().replace("\"Policy\"", "\"Polcy\"");
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains("unknown field `Polcy`"), "{error}");
    }

    #[test]
    fn the_file_warns_and_debug_output_hides_the_key() {
        let file = file();
        assert!(file.to_json().contains("SIMULATED - INSECURE"));
        assert!(!format!("{file:?}").contains("PRIVATE KEY"));
    }
}
