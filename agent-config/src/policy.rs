//! What may happen to a connection: pure decisions from the rules of one workload.
//!
//! An ingress policy answers for a port, an egress policy for a destination; both name the rule that
//! decided, so that a log line can say why. Nothing here reads a file or a socket.

mod destination;
mod egress;
mod name;
mod peers;
mod workload;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddrV4;
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use destination::{Cidr, CidrError, PortError, PortRange};
pub use egress::{
    Destinations, EgressDecision, EgressPolicy, EgressRule, Force, Heard, HeardName, Known,
    Undecided, Unknown, Unprovable,
};
pub use name::{DnsName, DnsNameError, NamePattern};
pub use peers::{
    LONGEST_NAME, Membership, NameError, Objection, PeerEntry, PeerMatch, PeerMatchError, PeerSet,
    WorkloadName,
};
pub use workload::{WorkloadMatch, WorkloadMatchError};

/// The rules for connections that reach a workload.
#[derive(Clone, Debug, Serialize)]
pub struct IngressPolicy {
    default: IngressMode,
    peers: PeerSet,
    rules: Vec<IngressRule>,
    #[serde(skip)]
    by_port: HashMap<u16, usize>,
}

impl IngressPolicy {
    /// A policy that asks `rules` first, of which no two may have the same port, and takes
    /// `default` and `peers` for every other port.
    pub fn new(default: IngressMode, peers: PeerSet, rules: Vec<IngressRule>) -> Self {
        let ports = rules.iter().map(|rule| rule.port.get());
        Self {
            by_port: ports.zip(0..).collect(),
            default,
            peers,
            rules,
        }
    }

    /// What happens to a connection to `port`.
    pub fn decide(&self, port: u16) -> IngressDecision<'_> {
        let index = self.by_port.get(&port).copied();
        let matching = index.and_then(|index| Some((index, self.rules.get(index)?)));
        match matching {
            Some((index, rule)) => IngressDecision {
                mode: rule.mode,
                peers: &rule.peers,
                rule: RuleRef::Ingress {
                    index,
                    port: rule.port,
                },
            },
            None => IngressDecision {
                mode: self.default,
                peers: &self.peers,
                rule: RuleRef::IngressDefault,
            },
        }
    }

    /// The mode of every port that no rule names.
    pub fn default_mode(&self) -> IngressMode {
        self.default
    }

    /// Who may connect to such a port.
    pub fn default_peers(&self) -> &PeerSet {
        &self.peers
    }

    /// The rules, in the order of the configuration.
    pub fn rules(&self) -> &[IngressRule] {
        &self.rules
    }
}

/// One `[[workload.ingress]]`.
#[derive(Clone, Debug, Serialize)]
pub struct IngressRule {
    /// The port that the program listens on.
    pub port: NonZeroU16,
    /// What a client must bring.
    pub mode: IngressMode,
    /// Who may connect; matters for [`IngressMode::Mtls`] only, as only there a client has a name.
    pub peers: PeerSet,
}

/// What [`IngressPolicy::decide`] found.
#[derive(Clone, Debug)]
pub struct IngressDecision<'a> {
    /// What a client must bring.
    pub mode: IngressMode,
    /// Who may connect, where the mode is [`IngressMode::Mtls`].
    pub peers: &'a PeerSet,
    /// The rule that decided.
    pub rule: RuleRef,
}

/// What a client must bring to reach a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IngressMode {
    /// TLS with a certificate of the mesh.
    Mtls,
    /// TLS, with or without a certificate.
    Tls,
    /// Nothing: the port is not redirected and the bytes are in clear.
    Plaintext,
}

impl IngressMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Mtls, Self::Tls, Self::Plaintext];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Tls => "tls",
            Self::Plaintext => "plaintext",
        }
    }
}

/// What happens to a connection that a workload opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressMode {
    /// It is wrapped in mutual TLS.
    Mtls,
    /// It leaves in clear.
    Plaintext,
    /// It is refused.
    Deny,
}

impl EgressMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Mtls, Self::Plaintext, Self::Deny];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Plaintext => "plaintext",
            Self::Deny => "deny",
        }
    }

    /// Greater where less may pass.
    fn strictness(self) -> u8 {
        match self {
            Self::Plaintext => 0,
            Self::Mtls => 1,
            Self::Deny => 2,
        }
    }
}

/// What happens to datagrams (UDP, UDP-Lite) that leave a workload's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UdpMode {
    /// They go out as they are, and are counted.
    Allow,
    /// They are dropped, told and counted.
    Deny,
}

impl UdpMode {
    /// Every mode.
    pub const ALL: [Self; 2] = [Self::Allow, Self::Deny];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Which way a connection goes, seen from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the workload.
    Ingress,
    /// From the workload.
    Egress,
}

impl Direction {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// How the bytes of a connection that was let through travel on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In TLS, both sides authenticated.
    Mtls,
    /// In TLS, the server authenticated.
    Tls,
    /// In clear, because a rule says so.
    Plaintext,
}

impl Mode {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Tls => "tls",
            Self::Plaintext => "plaintext",
        }
    }
}

impl From<IngressMode> for Mode {
    fn from(mode: IngressMode) -> Self {
        match mode {
            IngressMode::Mtls => Self::Mtls,
            IngressMode::Tls => Self::Tls,
            IngressMode::Plaintext => Self::Plaintext,
        }
    }
}

/// The rule that decided, as logs name it. Indices count from 0 in the order of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuleRef {
    /// `ingress[0] 8080`
    Ingress {
        /// Which `[[workload.ingress]]`.
        index: usize,
        /// Its port.
        port: NonZeroU16,
    },
    /// `ingress default`
    IngressDefault,
    /// `egress[2] 10.0.0.0/8:5432`, `egress[3] db.example.com:5432 in 10.0.0.0/8`,
    /// `egress[4] *.example.com (a.example.com)`, `egress[5] workload cart at 10.0.0.0/8:5432`
    Egress {
        /// Which `[[workload.egress]]`.
        index: usize,
        /// Its workload, destinations and ports, and the name that a wildcard was found by.
        to: Arc<str>,
    },
    /// `egress default`
    EgressDefault,
    /// `listener[0] 127.137.0.1:5432`
    Listener {
        /// Which `[[workload.listener]]`.
        index: usize,
        /// What the program dialled.
        listen: SocketAddrV4,
    },
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingress { index, port } => write!(f, "ingress[{index}] {port}"),
            Self::IngressDefault => f.write_str("ingress default"),
            Self::Egress { index, to } => write!(f, "egress[{index}] {to}"),
            Self::EgressDefault => f.write_str("egress default"),
            Self::Listener { index, listen } => write!(f, "listener[{index}] {listen}"),
        }
    }
}

impl Serialize for RuleRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ingress_rule_decides_for_its_port_alone() {
        let rule = |port, mode| IngressRule {
            port: NonZeroU16::new(port).unwrap(),
            mode,
            peers: PeerSet::any(),
        };
        let rules = vec![
            rule(8080, IngressMode::Tls),
            rule(9090, IngressMode::Plaintext),
        ];
        let nobody = PeerSet::from_iter([]);
        let policy = IngressPolicy::new(IngressMode::Mtls, nobody.clone(), rules);
        for (port, mode, peers, rule) in [
            (8080, IngressMode::Tls, PeerSet::any(), "ingress[0] 8080"),
            (
                9090,
                IngressMode::Plaintext,
                PeerSet::any(),
                "ingress[1] 9090",
            ),
            (8081, IngressMode::Mtls, nobody.clone(), "ingress default"),
        ] {
            let decision = policy.decide(port);
            assert_eq!((decision.mode, decision.peers), (mode, &peers), "{port}");
            assert_eq!(decision.rule.to_string(), rule);
        }
    }
}
