//! The Attester (RFC 9334): gets evidence from the TEE that this process runs in, and adds what the
//! vendor says of the TEE, so that the verifier needs no network.
//!
//! It judges nothing: what it hands out is verified by `attestation`, at the other end. It opens no
//! socket; endorsements come from the kernel or from files that the operator keeps fresh.

#![forbid(unsafe_code)]

mod cert_table;
mod configfs_tsm;
mod detect;
mod endorsements;
mod error;
mod sev_guest;
pub mod simulated;
mod simulated_tee_file;
mod source;
mod tsm_fs;

pub use cert_table::{CertTable, CertTableError};
pub use configfs_tsm::ConfigfsTsm;
pub use detect::{Paths, detect};
pub use endorsements::{EndorsementFiles, FileProblem};
pub use error::{AttesterError, TsmOperation};
pub use sev_guest::SevGuest;
pub use simulated::{Simulated, SimulatedOptions};
pub use simulated_tee_file::{SimulatedTeeFile, SimulatedTeeFileProblem};
pub use source::EvidenceSource;
