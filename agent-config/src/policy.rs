//! What may happen to a connection: pure decisions from the rules of one workload.
//!
//! An ingress policy answers for a port, an egress policy for a destination; both name the rule that
//! decided, so that a log line can say why. Nothing here reads a file or a socket.

mod destination;
mod peers;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

pub use destination::{Cidr, CidrError, PortError, PortRange};
pub use peers::{
    LONGEST_NAME, Membership, NameError, Objection, PeerEntry, PeerMatch, PeerMatchError, PeerSet,
    WorkloadName,
};

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
#[derive(Clone, Copy, Debug)]
pub struct IngressDecision<'a> {
    /// What a client must bring.
    pub mode: IngressMode,
    /// Who may connect, where the mode is [`IngressMode::Mtls`].
    pub peers: &'a PeerSet,
    /// The rule that decided.
    pub rule: RuleRef,
}

/// The rules for connections that a workload opens.
#[derive(Clone, Debug, Serialize)]
pub struct EgressPolicy {
    default: EgressMode,
    peers: PeerSet,
    rules: Vec<EgressRule>,
    #[serde(skip)]
    index: EgressIndex,
}

/// Finds the rules for a destination in as many steps as there are lengths of prefixes.
#[derive(Clone, Debug, Default)]
struct EgressIndex {
    /// Indices of the rules of each network, the narrowest range of ports first, then the earlier rule.
    by_network: HashMap<Cidr, Vec<usize>>,
    /// Lengths of the prefixes that there are, the longest first.
    prefixes_v4: BTreeSet<Reverse<u8>>,
    prefixes_v6: BTreeSet<Reverse<u8>>,
}

impl EgressIndex {
    fn of(rules: &[EgressRule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in rules.iter().enumerate() {
            let prefixes = match rule.cidr.network() {
                IpAddr::V4(_) => &mut index.prefixes_v4,
                IpAddr::V6(_) => &mut index.prefixes_v6,
            };
            prefixes.insert(Reverse(rule.cidr.prefix()));
            index.by_network.entry(rule.cidr).or_default().push(number);
        }
        for numbers in index.by_network.values_mut() {
            numbers.sort_by_key(|&number| rules[number].ports.width());
        }
        index
    }

    /// The rules whose networks the address lies in, the most specific first.
    fn candidates(&self, address: IpAddr) -> impl Iterator<Item = usize> {
        let prefixes = match address.to_canonical() {
            IpAddr::V4(_) => &self.prefixes_v4,
            IpAddr::V6(_) => &self.prefixes_v6,
        };
        let networks = prefixes
            .iter()
            .map(move |Reverse(prefix)| Cidr::around(address, *prefix));
        networks
            .filter_map(|network| self.by_network.get(&network))
            .flatten()
            .copied()
    }
}

impl EgressPolicy {
    /// A policy that asks `rules` first and takes `default` and `peers` for every other
    /// destination.
    pub fn new(default: EgressMode, peers: PeerSet, rules: Vec<EgressRule>) -> Self {
        Self {
            index: EgressIndex::of(&rules),
            default,
            peers,
            rules,
        }
    }

    /// What happens to a connection to `destination`: the longest prefix wins, then the narrower
    /// range of ports, then the earlier rule. A v4-mapped address counts as the IPv4 address.
    pub fn decide(&self, destination: SocketAddr) -> EgressDecision<'_> {
        let mut candidates = self.index.candidates(destination.ip());
        let matching = candidates.find_map(|index| {
            let rule = self.rules.get(index)?;
            let matches = rule.ports.contains(destination.port());
            matches.then_some((index, rule))
        });
        match matching {
            Some((index, rule)) => EgressDecision {
                mode: rule.mode,
                peers: &rule.peers,
                rule: RuleRef::Egress {
                    index,
                    cidr: rule.cidr,
                    ports: rule.ports,
                },
            },
            None => EgressDecision {
                mode: self.default,
                peers: &self.peers,
                rule: RuleRef::EgressDefault,
            },
        }
    }

    /// The mode of every destination that no rule names.
    pub fn default_mode(&self) -> EgressMode {
        self.default
    }

    /// Who may answer there.
    pub fn default_peers(&self) -> &PeerSet {
        &self.peers
    }

    /// The rules, in the order of the configuration.
    pub fn rules(&self) -> &[EgressRule] {
        &self.rules
    }
}

/// One `[[workload.egress]]`.
#[derive(Clone, Debug, Serialize)]
pub struct EgressRule {
    /// Which addresses the rule is for.
    pub cidr: Cidr,
    /// Which ports at these addresses.
    pub ports: PortRange,
    /// What happens to the connection.
    pub mode: EgressMode,
    /// Who may answer; matters for [`EgressMode::Mtls`] only.
    pub peers: PeerSet,
}

/// What [`EgressPolicy::decide`] found.
#[derive(Clone, Copy, Debug)]
pub struct EgressDecision<'a> {
    /// What happens to the connection.
    pub mode: EgressMode,
    /// Who may answer, where the mode is [`EgressMode::Mtls`].
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// `egress[2] 10.0.0.0/8:5432`
    Egress {
        /// Which `[[workload.egress]]`.
        index: usize,
        /// Its network.
        cidr: Cidr,
        /// Its ports.
        ports: PortRange,
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
            Self::Egress { index, cidr, ports } => {
                write!(f, "egress[{index}] ")?;
                match cidr {
                    cidr if *ports == PortRange::ALL => write!(f, "{cidr}"),
                    cidr if cidr.network().is_ipv6() => write!(f, "[{cidr}]:{ports}"),
                    cidr => write!(f, "{cidr}:{ports}"),
                }
            }
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn egress(rules: &[(&str, &str, EgressMode)]) -> EgressPolicy {
        let rules = rules.iter().map(|(cidr, ports, mode)| EgressRule {
            cidr: cidr.parse().unwrap(),
            ports: if ports.is_empty() {
                PortRange::ALL
            } else {
                ports.parse().unwrap()
            },
            mode: *mode,
            peers: PeerSet::any(),
        });
        EgressPolicy::new(EgressMode::Mtls, PeerSet::any(), rules.collect())
    }

    #[test]
    fn the_most_specific_egress_rule_decides() {
        use EgressMode::{Deny, Mtls, Plaintext};
        let policy = egress(&[
            ("0.0.0.0/0", "", Deny),
            ("10.0.0.0/8", "", Plaintext),
            ("10.0.0.0/8", "5432", Mtls),
            ("10.0.0.0/8", "5000-6000", Deny),
            ("10.9.0.0/16", "", Deny),
            ("192.0.2.7", "443", Plaintext),
            ("fd00::/8", "8000-8100", Plaintext),
        ]);
        for (destination, mode, rule) in [
            ("8.8.8.8:53", Deny, "egress[0] 0.0.0.0/0"),
            ("10.1.2.3:80", Plaintext, "egress[1] 10.0.0.0/8"),
            ("10.1.2.3:5432", Mtls, "egress[2] 10.0.0.0/8:5432"),
            ("10.1.2.3:5433", Deny, "egress[3] 10.0.0.0/8:5000-6000"),
            ("10.9.2.3:5432", Deny, "egress[4] 10.9.0.0/16"),
            ("192.0.2.7:443", Plaintext, "egress[5] 192.0.2.7/32:443"),
            ("192.0.2.7:444", Deny, "egress[0] 0.0.0.0/0"),
            ("[::ffff:10.1.2.3]:5432", Mtls, "egress[2] 10.0.0.0/8:5432"),
            (
                "[fd00::1]:8100",
                Plaintext,
                "egress[6] [fd00::/8]:8000-8100",
            ),
            ("[fd00::1]:8101", Mtls, "egress default"),
            ("[fe80::1]:80", Mtls, "egress default"),
        ] {
            let decision = policy.decide(destination.parse().unwrap());
            let found = (decision.mode, decision.rule.to_string());
            assert_eq!(found, (mode, rule.to_owned()), "{destination}");
        }
    }

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

    /// The model knows nothing of order: it looks at every rule, bit by bit, and keeps the best.
    #[test]
    fn any_policy_decides_as_a_naive_model_does() {
        let mut random = XorShift(0x5ea1_3172_u64);
        for _ in 0..300 {
            let rules: Vec<EgressRule> = (0..random.below(12)).map(|_| random.rule()).collect();
            let policy = EgressPolicy::new(EgressMode::Deny, PeerSet::any(), rules.clone());
            for _ in 0..50 {
                let destination = SocketAddr::new(random.address(), random.port());
                let expected = naive(&rules, destination);
                let found = match policy.decide(destination).rule {
                    RuleRef::Egress { index, .. } => Some(index),
                    _ => None,
                };
                assert_eq!(found, expected, "{destination} in {rules:#?}");
            }
        }
    }

    fn naive(rules: &[EgressRule], destination: SocketAddr) -> Option<usize> {
        let mut best: Option<(u8, u32, usize)> = None;
        for (index, rule) in rules.iter().enumerate() {
            let address = bits(destination.ip().to_canonical());
            let network = bits(rule.cidr.network());
            let prefix = usize::from(rule.cidr.prefix());
            let matches = address.len() == network.len()
                && address[..prefix] == network[..prefix]
                && rule.ports.contains(destination.port());
            let better = best.is_none_or(|(prefix, width, _)| {
                rule.cidr.prefix() > prefix
                    || (rule.cidr.prefix() == prefix && rule.ports.width() < width)
            });
            if matches && better {
                best = Some((rule.cidr.prefix(), rule.ports.width(), index));
            }
        }
        best.map(|(_, _, index)| index)
    }

    fn bits(address: IpAddr) -> String {
        match address {
            IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
            IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
        }
    }

    struct XorShift(u64);

    impl XorShift {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % limit
        }

        /// Few distinct values, so that rules meet.
        fn address(&mut self) -> IpAddr {
            let low = self.below(8) as u32;
            let v4 = Ipv4Addr::from_bits(0x0a00_0000 | (low << 22) | self.below(4) as u32);
            match self.below(3) {
                0 => IpAddr::V4(v4),
                1 => IpAddr::V6(v4.to_ipv6_mapped()),
                _ => IpAddr::V6(Ipv6Addr::from_bits(
                    (0xfd << 120) | (u128::from(low) << 100),
                )),
            }
        }

        fn port(&mut self) -> u16 {
            self.below(6) as u16 + 1
        }

        fn rule(&mut self) -> EgressRule {
            let address = self.address().to_canonical();
            let prefix = self.below(if address.is_ipv4() { 33 } else { 129 });
            let cidr = match format!("{address}/{prefix}").parse() {
                Ok(cidr) | Err(CidrError::HostBits(cidr)) => cidr,
                Err(error) => panic!("{address}/{prefix} {error}"),
            };
            let (one, other) = (self.port(), self.port());
            let ports = format!("{}-{}", one.min(other), one.max(other))
                .parse()
                .unwrap();
            EgressRule {
                cidr,
                ports,
                mode: EgressMode::Mtls,
                peers: PeerSet::any(),
            }
        }
    }
}
