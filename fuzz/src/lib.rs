//! What the fuzz targets share: how they start, and the vectors of `attestation`.
//!
//! A target takes bytes as an attacker would choose them. Besides not panicking it must keep its
//! promises, such as that what was read is written as the same bytes again; a broken promise is a
//! panic here, which libFuzzer reports with the input.

#![forbid(unsafe_code)]

pub mod coordinators;
pub mod genuine_snp;
pub mod genuine_tdx;
pub mod rsa_owner;
pub mod sample_history;
pub mod sample_manifests;

use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use rustls_pki_types::UnixTime;

/// What became of an input that broke no promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Accepted,
    /// It was refused.
    Refused,
}

impl Outcome {
    /// What a parser's result says.
    pub fn of<T, E>(result: &Result<T, E>) -> Self {
        Self::accepted_if(result.is_ok())
    }

    /// Accepted if `accepted`, as by one of several parsers.
    pub fn accepted_if(accepted: bool) -> Self {
        if accepted {
            Self::Accepted
        } else {
            Self::Refused
        }
    }
}

/// Begins a target: checks that `attempt` takes each of `seeds`, since mutating what is refused
/// anyhow finds little, and writes the seeds into the directory that `SEALWIRE_FUZZ_SEEDS` names, for
/// libFuzzer to begin with.
pub fn start(seeds: &[Vec<u8>], attempt: impl Fn(&[u8]) -> Outcome) {
    let directory = env::var_os("SEALWIRE_FUZZ_SEEDS");
    for (index, seed) in seeds.iter().enumerate() {
        assert_eq!(
            attempt(seed),
            Outcome::Accepted,
            "seed {index} is no valid input"
        );
        if let Some(directory) = &directory {
            let path = Path::new(directory).join(format!("seed-{index:02}"));
            fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}

/// A file of `attestation/tests/vectors`; hexadecimal ones as the bytes that they stand for.
pub fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../attestation/tests/vectors")
        .join(name);
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if path.extension().is_some_and(|it| it == "hex") {
        let digits = bytes.trim_ascii();
        let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
        return hex::decode(digits).expect("hexadecimal digits");
    }
    bytes
}

/// The time that is so many seconds after 1970.
pub const fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}
