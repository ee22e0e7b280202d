//! Why there are no certificates from a Coordinator.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use api::client::ClientError;
use attested_tls::AttestedTlsError;
use attester::AttesterError;
use manifest::ManifestErrors;
use thiserror::Error;
use tonic::Status;

use super::held::AnswerError;
use super::key::KeyError;
use super::memory::MemoryError;
use super::standing::UntrustedState;
use crate::config::CoordinatorAddress;

/// Why the agent can't even ask.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The manifest can't be read.
    #[error("can't read the manifest {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The manifest is not valid.
    #[error("the manifest {} is not valid: {errors}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        errors: ManifestErrors,
    },
    /// The manifest lists the simulated TEE alone, which was not allowed.
    #[error(
        "the manifest {} is for the simulated TEE, which protects nothing; if that is meant, give \
         --allow-simulated-tee",
        path.display()
    )]
    Simulated {
        /// The file.
        path: PathBuf,
    },
    /// There is no evidence to be had.
    #[error(transparent)]
    Attester(#[from] AttesterError),
    /// What is remembered of the deployment can't be read.
    #[error(transparent)]
    Memory(#[from] MemoryFault),
    /// The system gives no random bytes.
    #[error("cannot get random bytes")]
    Random,
}

impl SetupError {
    /// The exit code: 2 where the operator must change what was asked for, 3 where the machine
    /// can't do it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Read { .. }
            | Self::Manifest { .. }
            | Self::Simulated { .. }
            | Self::Memory(_)
            | Self::Attester(
                AttesterError::File { .. }
                | AttesterError::SimulatedTeeFile { .. }
                | AttesterError::PlatformKey,
            ) => 2,
            Self::Attester(_) => 3,
            Self::Random => 1,
        }
    }
}

/// What is remembered of the deployment can't be read; says which file, and what to do.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct MemoryFault(MemoryError);

impl From<MemoryError> for SetupError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(MemoryFault(error))
    }
}

/// Why one attempt failed.
#[derive(Debug, Error)]
#[error("{address}: {why}")]
pub(crate) struct Failure {
    /// The Coordinator.
    pub(crate) address: CoordinatorAddress,
    /// What happened.
    pub(crate) why: Why,
}

/// What happened in an attempt that failed.
#[derive(Debug, Error)]
pub(crate) enum Why {
    /// No attested connection came about.
    #[error(transparent)]
    Connect(#[from] Box<ClientError>),
    /// The connection was lost.
    #[error("the connection ended: {0}")]
    Lost(Box<Status>),
    /// The Coordinator took too long.
    #[error("no answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// The Coordinator, which had proved itself, said no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// What it says of the mesh is not to be believed.
    #[error(transparent)]
    State(#[from] UntrustedState),
    /// What it issued is of no use.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// There is no key to ask with.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Why {
    /// What a call's status means.
    pub(crate) fn of_status(status: Status) -> Self {
        match Refused::of_status(&status) {
            Some(refused) => Self::Refused(refused),
            None => Self::Lost(Box::new(status)),
        }
    }

    /// Whether the Coordinator was there at all.
    pub(crate) fn contact(&self) -> Contact {
        match self {
            Self::Connect(error) => match **error {
                AttestedTlsError::RefusedByPeer { .. }
                | AttestedTlsError::Refused { .. }
                | AttestedTlsError::NoEvidenceSource { .. }
                | AttestedTlsError::Evidence(_) => Contact::Refuses,
                _ => Contact::Unreachable,
            },
            Self::Lost(_) | Self::Deadline(_) => Contact::Unreachable,
            Self::Refused(_) | Self::State(_) | Self::Answer(_) | Self::Key(_) => Contact::Refuses,
        }
    }

    /// Whether this machine's clock and the Coordinator's are apart.
    pub(crate) fn is_of_clocks(&self) -> bool {
        matches!(self, Self::Answer(AnswerError::Clocks { .. }))
    }

    /// Whether the Coordinator says that the manifest has no place for the caller.
    pub(crate) fn is_not_allowed(&self) -> bool {
        matches!(self, Self::Refused(refused) if refused.code == NOT_ALLOWED)
    }
}

/// What an attempt that failed says of the Coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contact {
    /// It did not answer.
    Unreachable,
    /// It did, but there was no use in it.
    Refuses,
}

impl fmt::Display for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "coordinator unreachable",
            Self::Refuses => "coordinator refuses",
        })
    }
}

/// The answer of a Coordinator that said no.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "refused: {code}{detail}{}; the Coordinator's log has the reason under the id {id}",
    hint(code)
)]
pub(crate) struct Refused {
    /// Stable, in lower-case letters and hyphens.
    pub(crate) code: String,
    /// What its log has the reason under.
    pub(crate) id: String,
    /// What it says of the request itself, behind a colon and a space, if anything.
    detail: String,
}

impl Refused {
    fn of_status(status: &Status) -> Option<Self> {
        let text = |key| {
            let value = status.metadata().get(key)?.to_str().ok()?;
            let is_plain = value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-');
            (is_plain && value.len() <= LONGEST_TEXT).then(|| value.to_owned())
        };
        let code = text(api::CODE)?;
        let id = text(api::ID).unwrap_or_else(|| "unknown".to_owned());
        let message = status.message();
        let detail = message
            .strip_prefix(&format!("{code} (id {id})"))
            .unwrap_or_default();
        let detail = detail.chars().filter(|c| !c.is_control());
        Some(Self {
            detail: detail.take(LONGEST_TEXT).collect(),
            code,
            id,
        })
    }
}

/// What a code means to an agent, behind a comma and a space.
fn hint(code: &str) -> &'static str {
    match code {
        "store" => {
            ", its history is rolled back to before what this agent has seen, or its store was \
             tampered with"
        }
        "store-unavailable" | "store-full" => ", its store does not work, or is full",
        "no-manifest" => ", no manifest was set yet",
        "in-recovery" => ", it waits for the shares of its seed",
        "clock" => ", its clock is wrong: by it the mesh CA is not valid",
        "too-many-instances" => ", as many agents of this policy as there may be hold certificates",
        _ => "",
    }
}

/// The Coordinator's code for a policy that is not in the manifest, or may not do that.
const NOT_ALLOWED: &str = "not-allowed";

const LONGEST_TEXT: usize = 256;

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn status(code: &'static str, message: &str) -> Status {
        let mut status = Status::new(Code::PermissionDenied, message);
        let metadata = status.metadata_mut();
        metadata.insert(api::CODE, code.parse().unwrap());
        metadata.insert(api::ID, "0123456789abcdef".parse().unwrap());
        status
    }

    #[test]
    fn a_refusal_says_the_code_and_where_to_find_the_reason() {
        let why = Why::of_status(status("store", "store (id 0123456789abcdef)"));
        assert!(why.to_string().contains("rolled back"));
        let why = Why::of_status(status("not-allowed", "not-allowed (id 0123456789abcdef)"));
        assert!(why.is_not_allowed());
        assert_eq!(why.contact(), Contact::Refuses);
        assert_eq!(
            why.to_string(),
            "refused: not-allowed; the Coordinator's log has the reason under the id \
             0123456789abcdef"
        );
        let message = "malformed (id 0123456789abcdef): instance: got 3 bytes\n, want 16";
        let why = Why::of_status(status("malformed", message));
        assert!(!why.is_not_allowed());
        assert!(
            why.to_string()
                .starts_with("refused: malformed: instance: got 3 bytes, want")
        );
    }

    #[test]
    fn a_status_without_a_code_is_a_lost_connection() {
        let why = Why::of_status(Status::unavailable("transport error"));
        assert_eq!(why.contact(), Contact::Unreachable);
        assert!(matches!(why, Why::Lost(_)));
    }
}
