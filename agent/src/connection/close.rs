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

    /// What that means, as the documentation says it (`docs/src/reference/closes.md`).
    pub(crate) fn means(self) -> &'static str {
        match self {
            Self::Orderly => "both sides ended their stream",
            Self::AppReset => "the program reset its connection, or was killed",
            Self::WireReset => {
                "the peer or its host reset the connection. From a peer that is an agent: \
                 its program reset it, or does not listen, or the agent refused us"
            }
            Self::WireTruncated => {
                "the peer's stream ended without `close_notify`: it may have been cut"
            }
            Self::PeerAlert => {
                "the peer ended it with a TLS alert. Right after the beginning: it \
                 refused our certificate"
            }
            Self::BadRecord => {
                "a record that can't have come from the peer: forged, damaged, or against \
                 the protocol"
            }
            Self::KeyUpdate => {
                "the peer replaced its key, and the kernel, which has the old one, can't \
                 follow (before Linux 6.14). The peer was told by the alert \
                 `internal_error`"
            }
            Self::KeyLimit => {
                "the sending key has protected as much as it may, and the kernel can't \
                 replace it (before Linux 6.14): the program must connect anew. Announced \
                 by a log line and `sealwire_key_limits_near_total`"
            }
            Self::KernelTls => {
                "the kernel's TLS refused a key: the socket is in a sockmap, or memory \
                 was short"
            }
            Self::AppError => "the program's socket failed otherwise",
            Self::WireError => "the wire's socket failed otherwise, such as by a time-out",
            Self::AgentStopped => {
                "the agent was stopped and its time for draining was over: both sides \
                 were reset"
            }
            Self::Closed(cause) => cause.means(),
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

    fn means(self) -> &'static str {
        match self {
            Self::IdentityWithdrawn => {
                "the manifest no longer has the identity of the workload, or of its peer"
            }
            Self::PeerNotAllowedAnyMore => {
                "the peer is still in the manifest, but `AllowedPeers` of either side, or \
                 a rule of a new configuration, no longer allows it"
            }
            Self::RuleChanged => {
                "a rule of a new configuration denies the connection, or asks for mutual \
                 TLS where it has none; or its listener is gone"
            }
            Self::WorkloadRemoved => {
                "a new configuration does not have the workload any more, or has it with \
                 another cgroup, namespace or certificate"
            }
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
    fn the_documentation_says_of_each_what_the_agent_says() {
        let page = include_str!("../../../docs/src/reference/closes.md");
        let ended_from_outside = CloseCause::ALL.map(CloseReason::Closed);
        let reasons = [
            CloseReason::Orderly,
            CloseReason::AppReset,
            CloseReason::WireReset,
            CloseReason::WireTruncated,
            CloseReason::PeerAlert,
            CloseReason::BadRecord,
            CloseReason::KeyUpdate,
            CloseReason::KeyLimit,
            CloseReason::KernelTls,
            CloseReason::AppError,
            CloseReason::WireError,
            CloseReason::AgentStopped,
        ];
        let all = reasons.into_iter().chain(ended_from_outside);
        let rows = all.map(|it| format!("| `{}` | {} |", it.as_str(), it.means()));
        let rows: Vec<_> = rows.collect();
        for row in &rows {
            assert!(page.contains(row), "{row}");
        }
        let documented = page.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(documented.count(), rows.len());
    }

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
