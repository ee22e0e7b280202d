use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::cert_table::CertTableError;
use crate::endorsements::FileProblem;
use crate::simulated_tee_file::SimulatedTeeFileProblem;

/// Why there is no evidence.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttesterError {
    /// No TEE of hardware is here.
    #[error(
        "no TEE found: neither {} (configfs-tsm: Linux 6.7 or later, configfs mounted, module \
         sev-guest or tdx-guest) nor {} exists; run in a guest of SEV-SNP or TDX, or use the \
         simulated TEE for tests",
        tsm.display(), sev_guest.display()
    )]
    NoTee {
        /// Where configfs-tsm was looked for.
        tsm: PathBuf,
        /// Where the device of SEV-SNP was looked for.
        sev_guest: PathBuf,
    },
    /// An operation on configfs-tsm failed.
    #[error("cannot {operation} {} (configfs-tsm; it needs root)", path.display())]
    Tsm {
        /// What was attempted.
        operation: TsmOperation,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// configfs-tsm speaks for a TEE that Sealwire does not know.
    #[error("unknown provider {provider:?} of configfs-tsm: expected sev_guest or tdx_guest")]
    UnknownProvider {
        /// What the kernel calls it.
        provider: String,
    },
    /// Each time, somebody else wrote to the report entry between request and answer.
    #[error(
        "configfs-tsm: {attempts} requests in a row were disturbed; does another program use our entries?"
    )]
    Disturbed {
        /// How often it was tried.
        attempts: u32,
    },
    /// The platform's answer is longer than any evidence.
    #[error("{what} is longer than {limit} bytes")]
    TooLong {
        /// What was read.
        what: &'static str,
        /// The most that is read, in bytes.
        limit: usize,
    },
    /// A report of the wrong length.
    #[error("the platform gave a report of {got} bytes, not 1184")]
    ReportLength {
        /// Its length in bytes.
        got: usize,
    },
    /// The host's certificates can't be read.
    #[error(
        "the host's table of certificates: {0}; give the VCEK's or VLEK's certificate as a file"
    )]
    CertTable(#[from] CertTableError),
    /// There is no certificate for the key that signs reports.
    #[error(
        "the host gives no VCEK or VLEK certificate; fetch that of this chip and firmware from \
         AMD's KDS and give it as a file"
    )]
    NoVek,
    /// A file of the operator's can't be used.
    #[error("cannot use {}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: FileProblem,
    },
    /// The device of SEV-SNP gave no report.
    #[error("cannot get a report from /dev/sev-guest (it needs root)")]
    SevGuest(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The platform key of the simulated TEE can't be read.
    #[error(
        "the platform key of the simulated TEE is not an unencrypted P-256 key in PKCS #8, PEM"
    )]
    PlatformKey,
    /// The file that describes the simulated TEE can't be used.
    #[error("{}: {problem}; make one with `sealwire evidence simulate`", path.display())]
    SimulatedTeeFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: SimulatedTeeFileProblem,
    },
    /// A key could not be made, or did not sign.
    #[error("the cryptographic library could not {0}")]
    Crypto(&'static str),
}

/// What was attempted on configfs-tsm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TsmOperation {
    /// mkdir(2).
    Create,
    /// open(2), read(2).
    Read,
    /// open(2), write(2).
    Write,
}

impl std::fmt::Display for TsmOperation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}
