use std::{net::SocketAddr, time::Duration};

use userspace_tls::{HandshakeError, HandshakeRefusal};

use super::CloseCause;
use crate::{certificates::Unusable, policy::RuleRef};

/// A connection that the agent did not let through.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Who connected, where that is known.
    pub from: Option<SocketAddr>,
    /// To where, where that is known.
    pub to: Option<SocketAddr>,
    /// Why not.
    pub reason: RefusalReason,
    /// The rule that decided, or had let it through so far; `None` if none was asked yet.
    pub rule: Option<RuleRef>,
    /// What the operator needs beyond the code; the peer sees none of it.
    pub detail: Box<str>,
}

/// Why the agent refused a connection. The kernel's reasons are [`ebpf_abi::KernelRefusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RefusalReason {
    /// A connection to the egress listener that the connect hook did not turn there.
    NoOriginalDestination,
    /// The hook that turned the connection belongs to another workload than the listener.
    WrongWorkload,
    /// A connection from the namespace to itself that must not come here.
    OwnAddressLoop,
    /// A port whose connections go straight to the program must not come here.
    PlaintextPort,
    /// A rule says no.
    DeniedByRule,
    /// The workload has nothing to prove itself with.
    Credential(Unusable),
    /// The source has too many handshakes waiting.
    TooManyHandshakes,
    /// The handshake took too long.
    HandshakeTimeout,
    /// The handshake failed.
    Handshake(HandshakeRefusal),
    /// The peer is a member of the mesh, but not one that the rule lists.
    PeerNotAllowed,
    /// The mesh or the rules no longer want the connection, and said so before it was established.
    Closed(CloseCause),
    /// The destination, or the program, refused the connection.
    DialRefused,
    /// It did not answer.
    DialTimeout,
    /// The name that a listener leads to has no address.
    NameLookup,
    /// A stricter rule may be for the destination, by a name whose addresses nobody could say.
    NameUnknown,
    /// There is no way to it.
    DialUnreachable,
    /// The socket could not be made or connected for another reason.
    DialFailed,
}

impl RefusalReason {
    /// The code in logs, metrics and the documentation.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoOriginalDestination => "no-original-destination",
            Self::WrongWorkload => "wrong-workload",
            Self::OwnAddressLoop => "own-address-loop",
            Self::PlaintextPort => "plaintext-port",
            Self::DeniedByRule => "denied-by-rule",
            Self::Credential(why) => why.as_str(),
            Self::TooManyHandshakes => "too-many-handshakes",
            Self::HandshakeTimeout => "handshake-timeout",
            Self::Handshake(why) => why.as_str(),
            Self::PeerNotAllowed => "peer-not-allowed",
            Self::Closed(cause) => cause.as_str(),
            Self::DialRefused => "dial-refused",
            Self::DialTimeout => "dial-timeout",
            Self::NameLookup => "name-lookup",
            Self::NameUnknown => "name-unknown",
            Self::DialUnreachable => "dial-unreachable",
            Self::DialFailed => "dial-failed",
        }
    }
}

/// A reason with what the operator needs to know of it; the addresses come later.
#[derive(Debug)]
pub(super) struct Cause {
    pub(super) reason: RefusalReason,
    pub(super) rule: Option<RuleRef>,
    pub(super) detail: String,
}

impl Cause {
    pub(super) fn new(reason: RefusalReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            rule: None,
            detail: detail.into(),
        }
    }

    /// The same, of a connection that this rule decides about.
    pub(super) fn under(self, rule: RuleRef) -> Self {
        Self {
            rule: Some(rule),
            ..self
        }
    }

    pub(super) fn timeout(limit: Duration) -> Self {
        let detail = format!("the handshake was not done within {} s", limit.as_secs());
        Self::new(RefusalReason::HandshakeTimeout, detail)
    }

    /// The refusal of the connection between these two.
    pub(super) fn between(self, from: Option<SocketAddr>, to: Option<SocketAddr>) -> Refusal {
        Refusal {
            from,
            to,
            reason: self.reason,
            rule: self.rule,
            detail: self.detail.into(),
        }
    }
}

impl From<HandshakeError> for Cause {
    fn from(error: HandshakeError) -> Self {
        Self::new(RefusalReason::Handshake(error.reason()), error.to_string())
    }
}

impl From<super::dial::DialError> for Cause {
    fn from(error: super::dial::DialError) -> Self {
        Self::new(error.reason, error.source.to_string())
    }
}
