//! Why a request was refused. The caller is told the code and an id; the operator finds the reason
//! under the id, in the log and in the audit log.

use std::fmt;

use aws_lc_rs::rand;
use thiserror::Error;

use crate::store::StoreError;

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
    /// By this machine's clock the mesh CA is not valid.
    Clock,
    /// The store was tampered with.
    Store,
    /// The store does not answer, or does not work.
    StoreUnavailable,
    /// No space is left in the store.
    StoreFull,
    /// Something that should not fail did.
    Internal,
}

impl RefusalCode {
    /// Every code.
    pub const ALL: [Self; 15] = [
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
        Self::Clock,
        Self::Store,
        Self::StoreUnavailable,
        Self::StoreFull,
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
            Self::Clock => "clock",
            Self::Store => "store",
            Self::StoreUnavailable => "store-unavailable",
            Self::StoreFull => "store-full",
            Self::Internal => "internal",
        }
    }

    /// What an error of the store is to the caller.
    pub fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. } => Self::Store,
            StoreError::Full { .. } => Self::StoreFull,
            _ => Self::StoreUnavailable,
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
            Self::TooManyInstances | Self::StoreFull => tonic::Code::ResourceExhausted,
            Self::Clock | Self::Store | Self::StoreUnavailable => tonic::Code::Unavailable,
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
            reason: shortened(reason.to_string(), MAX_REASON),
            detail: None,
        }
    }

    /// With a reason that speaks of the caller's input alone, and is for the caller too.
    pub fn told(code: RefusalCode, reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        Self {
            code,
            detail: Some(shortened(reason.clone(), MAX_DETAIL)),
            reason: shortened(reason, MAX_REASON),
        }
    }
}

/// What a caller can make arbitrarily long, such as the errors of a manifest, must not fill the log,
/// nor be too long for the headers of an answer.
fn shortened(mut text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let end = text.floor_char_boundary(limit);
    let left_out = text.len() - end;
    text.truncate(end);
    text + &format!("... ({left_out} more bytes)")
}

/// A header list has 16 KiB by default, and a byte takes three in it where it is escaped.
const MAX_DETAIL: usize = 4 * 1024;
const MAX_REASON: usize = 16 * 1024;

/// Eight random bytes in hexadecimal: finds a refusal in the log.
pub fn correlation_id() -> String {
    let mut bytes = [0; 8];
    // Without random bytes the id is useless, which is no reason to fail.
    let _ = rand::fill(&mut bytes);
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_in_lower_case() {
        let names: std::collections::BTreeSet<_> =
            RefusalCode::ALL.iter().map(|it| it.as_str()).collect();
        assert_eq!(names.len(), RefusalCode::ALL.len());
        let is_of_a_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        assert!(names.iter().all(|it| it.bytes().all(is_of_a_name)));
    }

    #[test]
    fn a_reason_for_the_operator_is_no_detail_for_the_caller() {
        let refused = Refused::new(RefusalCode::NotAllowed, "policy 7 may not");
        assert_eq!(refused.detail, None);
        assert_eq!(refused.to_string(), "not-allowed: policy 7 may not");
        let told = Refused::told(RefusalCode::Malformed, "instance: 3 bytes");
        assert_eq!(told.detail.as_deref(), Some("instance: 3 bytes"));
    }

    #[test]
    fn what_a_caller_made_long_is_cut_between_characters() {
        let long = "ä".repeat(MAX_REASON);
        let refused = Refused::told(RefusalCode::ManifestInvalid, format_args!("x{long}"));
        let detail = refused.detail.unwrap();
        assert!(detail.len() < MAX_DETAIL + 40, "{}", detail.len());
        assert!(refused.reason.len() < MAX_REASON + 40);
        assert!(detail.ends_with("more bytes)"), "{detail}");
    }

    #[test]
    fn ids_are_sixteen_digits_and_never_the_same() {
        let (one, other) = (correlation_id(), correlation_id());
        assert_eq!(one.len(), 16);
        assert_ne!(one, other);
    }
}
