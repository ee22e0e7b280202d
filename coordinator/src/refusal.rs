//! Why a request was refused. The caller is told the code and an id; the operator finds the reason
//! under the id, in the log and in the audit log.

use std::fmt;

use aws_lc_rs::rand;
use thiserror::Error;

/// What a caller is told. Stable; the reference explains each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// No manifest was set yet.
    NoManifest,
    /// The seed is not here yet.
    InRecovery,
    /// There is nothing to recover.
    NotInRecovery,
    /// The manifest is not valid.
    ManifestInvalid,
    /// The owners did not authorise it.
    NotAuthorised,
    /// Another update came first.
    Conflict,
    /// A share of the seed is not as it should be.
    ShareRefused,
    /// The caller's evidence or role does not allow it.
    NotAllowed,
    /// The request is not well-formed.
    Malformed,
    /// As many instances as there may be hold certificates.
    TooManyInstances,
    /// The store does not work, or was tampered with.
    Store,
    /// Something that should not fail did.
    Internal,
}

impl RefusalCode {
    /// Every code.
    pub const ALL: [Self; 12] = [
        Self::NoManifest,
        Self::InRecovery,
        Self::NotInRecovery,
        Self::ManifestInvalid,
        Self::NotAuthorised,
        Self::Conflict,
        Self::ShareRefused,
        Self::NotAllowed,
        Self::Malformed,
        Self::TooManyInstances,
        Self::Store,
        Self::Internal,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoManifest => "no-manifest",
            Self::InRecovery => "in-recovery",
            Self::NotInRecovery => "not-in-recovery",
            Self::ManifestInvalid => "manifest-invalid",
            Self::NotAuthorised => "not-authorised",
            Self::Conflict => "conflict",
            Self::ShareRefused => "share-refused",
            Self::NotAllowed => "not-allowed",
            Self::Malformed => "malformed",
            Self::TooManyInstances => "too-many-instances",
            Self::Store => "store",
            Self::Internal => "internal",
        }
    }

    /// The gRPC code that goes with it.
    pub fn grpc(self) -> tonic::Code {
        match self {
            Self::NoManifest | Self::InRecovery | Self::NotInRecovery => {
                tonic::Code::FailedPrecondition
            }
            Self::ManifestInvalid | Self::ShareRefused | Self::Malformed => {
                tonic::Code::InvalidArgument
            }
            Self::NotAuthorised | Self::NotAllowed => tonic::Code::PermissionDenied,
            Self::Conflict => tonic::Code::Aborted,
            Self::TooManyInstances => tonic::Code::ResourceExhausted,
            Self::Store => tonic::Code::Unavailable,
            Self::Internal => tonic::Code::Internal,
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A request that was refused.
#[derive(Debug, Error)]
#[error("{code}: {reason}")]
pub struct Refused {
    /// What the caller is told.
    pub code: RefusalCode,
    /// What the operator is told.
    pub reason: String,
    /// What the caller is told of its own input; nothing else is in it.
    pub detail: Option<String>,
}

impl Refused {
    /// With a reason that is for the operator alone.
    pub fn new(code: RefusalCode, reason: impl fmt::Display) -> Self {
        Self {
            code,
            reason: reason.to_string(),
            detail: None,
        }
    }

    /// With a reason that speaks of the caller's input alone, and is for the caller too.
    pub fn told(code: RefusalCode, reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        Self {
            code,
            detail: Some(reason.clone()),
            reason,
        }
    }
}

/// Eight random bytes in hexadecimal: finds a refusal in the log.
pub fn correlation_id() -> String {
    let mut bytes = [0; 8];
    // Without random bytes the id is useless, which is no reason to fail.
    let _ = rand::fill(&mut bytes);
    hex::encode(bytes)
}
