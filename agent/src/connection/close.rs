use userspace_tls::RelayEnd;

use crate::policy::Objection;

/// How an established connection ended. The sockets were closed, or reset, accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CloseReason {
    /// Both sides ended their stream.
    Orderly,
    /// The program reset the connection.
    AppReset,
    /// The peer, or its host, reset the connection.
    WireReset,
    /// The peer's stream ended without `close_notify`: it may have been cut, so the program saw a
    /// reset.
    WireTruncated,
    /// The peer ended the connection with an alert.
    PeerAlert,
    /// A record that can't have come from the peer.
    BadRecord,
    /// The peer replaced its key where the kernel can't follow.
    KeyUpdate,
    /// The kernel's sending key was used up.
    KeyLimit,
    /// The kernel's TLS refused a key or an answer.
    KernelTls,
    /// The program's socket failed otherwise.
    AppError,
    /// The wire's socket failed otherwise.
    WireError,
    /// The agent stopped and reset the connection.
    AgentStopped,
    /// The mesh or the rules no longer wanted the connection: the peer was told by an alert, where one could be
    /// sent, and both sides were reset.
    Closed(CloseCause),
}

impl CloseReason {
    /// The code in logs, metrics and the documentation.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Orderly => "orderly",
            Self::AppReset => "app-reset",
            Self::WireReset => "wire-reset",
            Self::WireTruncated => "wire-truncated",
            Self::PeerAlert => "peer-alert",
            Self::BadRecord => "bad-record",
            Self::KeyUpdate => "key-update",
            Self::KeyLimit => "key-limit",
            Self::KernelTls => "kernel-tls",
            Self::AppError => "app-error",
            Self::WireError => "wire-error",
            Self::AgentStopped => "agent-stopped",
            Self::Closed(cause) => cause.as_str(),
        }
    }

    /// How the relay ended, and what ended it if it was ended from outside.
    pub(super) fn of(end: RelayEnd, cause: Option<CloseCause>) -> Self {
        match end {
            RelayEnd::Orderly => Self::Orderly,
            RelayEnd::AppReset => Self::AppReset,
            RelayEnd::WireReset => Self::WireReset,
            RelayEnd::WireTruncated => Self::WireTruncated,
            RelayEnd::PeerAlert(_) => Self::PeerAlert,
            RelayEnd::BadRecord(_) => Self::BadRecord,
            RelayEnd::KeyUpdate => Self::KeyUpdate,
            RelayEnd::KeyLimit => Self::KeyLimit,
            RelayEnd::KernelTls(_) => Self::KernelTls,
            RelayEnd::AppError(_) => Self::AppError,
            RelayEnd::WireError(_) => Self::WireError,
            RelayEnd::Stopped => cause.map_or(Self::AgentStopped, Self::Closed),
        }
    }
}

/// Why a connection is not wanted any more that was wanted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CloseCause {
    /// The workload's identity, or the peer's, is none of the mesh's any more.
    IdentityWithdrawn,
    /// The peer is still in the mesh, but the workload may not meet it any more.
    PeerNotAllowedAnyMore,
    /// A rule of a new configuration denies the connection, or asks for what it does not have.
    RuleChanged,
    /// A new configuration does not have the workload any more, or has another in its place.
    WorkloadRemoved,
}

impl CloseCause {
    /// Every cause.
    pub(crate) const ALL: [Self; 4] = [
        Self::IdentityWithdrawn,
        Self::PeerNotAllowedAnyMore,
        Self::RuleChanged,
        Self::WorkloadRemoved,
    ];

    /// The code in logs, metrics and the documentation.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::IdentityWithdrawn => "identity-withdrawn",
            Self::PeerNotAllowedAnyMore => "peer-not-allowed-any-more",
            Self::RuleChanged => "rule-changed",
            Self::WorkloadRemoved => "workload-removed",
        }
    }
}

impl From<Objection> for CloseCause {
    fn from(objection: Objection) -> Self {
        match objection {
            Objection::OwnIdentity | Objection::PeerIdentity => Self::IdentityWithdrawn,
            Objection::PeerNotAllowed => Self::PeerNotAllowedAnyMore,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_was_stopped_is_closed_for_the_cause_that_stopped_it() {
        for cause in CloseCause::ALL {
            let reason = CloseReason::of(RelayEnd::Stopped, Some(cause));
            assert_eq!(reason.as_str(), cause.as_str());
        }
        // It ended by itself just before.
        let cause = Some(CloseCause::IdentityWithdrawn);
        assert_eq!(
            CloseReason::of(RelayEnd::Orderly, cause).as_str(),
            "orderly"
        );
    }
}
