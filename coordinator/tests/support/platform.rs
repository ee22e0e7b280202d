//! A machine with a simulated TEE.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use attestation::Digest;
use attester::simulated::{generate_platform_key, platform_key_digest};
use attester::{Simulated, SimulatedOptions, SimulatedTeeFile};
use zeroize::Zeroizing;

use super::manifest::policy_hash;

/// What all guests of a deployment are measured as.
pub(crate) const MEASUREMENT: [u8; 48] = [7; 48];

#[derive(Clone)]
pub(crate) struct Platform {
    key: Zeroizing<String>,
    measurement: [u8; 48],
}

impl Platform {
    pub(crate) fn new() -> Self {
        Self {
            key: generate_platform_key().unwrap(),
            measurement: MEASUREMENT,
        }
    }

    /// The same machine with another guest image on it.
    pub(crate) fn measured_as(&self, measurement: [u8; 48]) -> Self {
        Self {
            key: self.key.clone(),
            measurement,
        }
    }

    pub(crate) fn key_digest(&self) -> Digest {
        platform_key_digest(&self.key).unwrap()
    }

    /// A guest that runs under the policy of this name.
    pub(crate) fn source(&self, policy: &str) -> Arc<Simulated> {
        let options = SimulatedOptions {
            key_pem: self.key.clone(),
            measurement: self.measurement,
            host_data: policy_hash(policy),
            platform: [9; 16],
        };
        Arc::new(Simulated::new(options).unwrap())
    }

    /// The same as a file, for a process.
    pub(crate) fn file(&self, dir: &Path, policy: &str) -> PathBuf {
        let path = dir.join(format!("{policy}-tee.json"));
        let file = SimulatedTeeFile::new(
            self.key.clone(),
            &self.measurement,
            policy_hash(policy),
            &[9; 16],
        );
        std::fs::write(&path, file.to_json().as_bytes()).unwrap();
        path
    }
}
