//! What happens to a connection that a workload opens, by its destination.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use super::{Cidr, DnsName, EgressMode, PeerSet, PortRange, RuleRef};

/// The rules for connections that a workload opens.
#[derive(Clone, Debug, Serialize)]
pub struct EgressPolicy {
    default: EgressMode,
    peers: PeerSet,
    rules: Vec<EgressRule>,
    #[serde(skip)]
    index: Index,
}

/// One `[[workload.egress]]`.
#[derive(Clone, Debug, Serialize)]
pub struct EgressRule {
    /// Which addresses the rule is for.
    #[serde(flatten)]
    pub to: Destinations,
    /// Which ports at these addresses.
    pub ports: PortRange,
    /// What happens to the connection.
    pub mode: EgressMode,
    /// Who may answer; matters for [`EgressMode::Mtls`] only.
    pub peers: PeerSet,
}

impl EgressRule {
    /// `10.0.0.0/8:5432`, `db.example.com:5432 in 10.0.0.0/8`
    fn label(&self) -> String {
        let Self { to, ports, .. } = self;
        if *ports == PortRange::ALL {
            return to.to_string();
        }
        match to {
            Destinations::Network { cidr } if cidr.network().is_ipv6() => {
                format!("[{cidr}]:{ports}")
            }
            Destinations::NameWithin { name, cidr } => format!("{name}:{ports} in {cidr}"),
            Destinations::Network { .. } | Destinations::Name { .. } => format!("{to}:{ports}"),
        }
    }
}

/// The addresses that an egress rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum Destinations {
    /// All of a network.
    Network {
        /// The network.
        cidr: Cidr,
    },
    /// Those that a name has, wherever they are.
    Name {
        /// The name.
        name: DnsName,
    },
    /// Those that a name has, as far as they lie in a network: no resolver can add others.
    NameWithin {
        /// The name.
        name: DnsName,
        /// The network.
        cidr: Cidr,
    },
}

impl Destinations {
    /// The name, where it is by name.
    pub fn name(&self) -> Option<&DnsName> {
        match self {
            Self::Network { .. } => None,
            Self::Name { name } | Self::NameWithin { name, .. } => Some(name),
        }
    }

    /// The network, where there is one.
    pub fn cidr(&self) -> Option<Cidr> {
        match self {
            Self::Network { cidr } | Self::NameWithin { cidr, .. } => Some(*cidr),
            Self::Name { .. } => None,
        }
    }
}

impl fmt::Display for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { cidr } => cidr.fmt(f),
            Self::Name { name } => name.fmt(f),
            Self::NameWithin { name, cidr } => write!(f, "{name} in {cidr}"),
        }
    }
}

/// What is known of names when a destination is judged. By default nothing has a name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The names that have the destination's address.
    pub names: &'a [DnsName],
    /// Those that may have it, as what they have is not known.
    pub unknown: &'a [(DnsName, Unknown)],
}

/// Why the addresses of a name are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// It is being looked up for the first time.
    Pending,
    /// Nobody could say.
    Failed,
}

/// A destination can't be judged: a rule may be for it, by a name whose addresses are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// The rule that may be for it.
    pub rule: RuleRef,
    /// Its name.
    pub name: DnsName,
    /// Why that is not known.
    pub why: Unknown,
}

/// What [`EgressPolicy::decide`] found.
#[derive(Clone, Debug)]
pub struct EgressDecision<'a> {
    /// What happens to the connection.
    pub mode: EgressMode,
    /// Who may answer, where the mode is [`EgressMode::Mtls`].
    pub peers: &'a PeerSet,
    /// The rule that decided.
    pub rule: RuleRef,
}

impl EgressPolicy {
    /// A policy that asks `rules` first and takes `default` and `peers` for every other
    /// destination.
    pub fn new(default: EgressMode, peers: PeerSet, rules: Vec<EgressRule>) -> Self {
        Self {
            index: Index::of(&rules),
            default,
            peers,
            rules,
        }
    }

    /// What happens to a connection to `destination`. A v4-mapped address counts as the IPv4 address.
    ///
    /// The longest prefix wins, a name without a network coming before every network; then a name
    /// before none, an exact one before a wildcard, the longer wildcard; then the narrower range of
    /// ports. If an address has two names with rules that are still equal, the stricter mode wins, then the earlier
    /// rule.
    ///
    /// # Errors
    /// Where a rule that may win is stricter than what was found, or has other peers, and the
    /// addresses of its name are not known; or is any other, and they will be soon.
    pub fn decide(
        &self,
        destination: SocketAddr,
        known: Known<'_>,
    ) -> Result<EgressDecision<'_>, Undecided> {
        let mut found = self.by_network(destination);
        for &index in known.names.iter().flat_map(|name| self.index.named(name)) {
            if self.matches(index, destination) && self.rank(Some(index)) > self.rank(found) {
                found = Some(index);
            }
        }
        let decision = self.decision(found);
        for (name, why) in known.unknown {
            for &index in self.index.named(name) {
                if self.matches(index, destination)
                    && self.rank(Some(index)) > self.rank(found)
                    && self.would_matter(index, &decision, *why)
                {
                    return Err(Undecided {
                        rule: self.decision(Some(index)).rule,
                        name: name.clone(),
                        why: *why,
                    });
                }
            }
        }
        Ok(decision)
    }

    fn by_network(&self, destination: SocketAddr) -> Option<usize> {
        let mut candidates = self.index.networks(destination.ip());
        candidates.find(|&index| self.matches(index, destination))
    }

    fn matches(&self, index: usize, destination: SocketAddr) -> bool {
        self.rules.get(index).is_some_and(|rule| {
            rule.ports.contains(destination.port())
                && rule
                    .to
                    .cidr()
                    .is_none_or(|cidr| cidr == Cidr::around(destination.ip(), cidr.prefix()))
        })
    }

    /// How specific a rule is, of those that are for one address.
    fn rank(&self, index: Option<usize>) -> Option<impl Ord + use<>> {
        let rule = self.rules.get(index?)?;
        let prefix = rule.to.cidr().map_or(u8::MAX, Cidr::prefix);
        let strictness = rule.to.name().map(|_| rule.mode.strictness());
        let width = Reverse(rule.ports.width());
        let is_named = rule.to.name().is_some();
        Some((prefix, is_named, width, strictness, Reverse(index)))
    }

    /// Whether it makes a difference that a more specific rule is not known to be for a destination.
    fn would_matter(&self, index: usize, found: &EgressDecision<'_>, why: Unknown) -> bool {
        let Some(rule) = self.rules.get(index) else {
            return false;
        };
        match (rule.mode, found.mode) {
            // It does not help to wait for ever for a permission.
            (_, EgressMode::Deny) | (EgressMode::Plaintext, _) => why == Unknown::Pending,
            (EgressMode::Mtls, EgressMode::Mtls) => rule.peers != *found.peers,
            (EgressMode::Mtls, EgressMode::Plaintext)
            | (EgressMode::Deny, EgressMode::Mtls | EgressMode::Plaintext) => true,
        }
    }

    fn decision(&self, found: Option<usize>) -> EgressDecision<'_> {
        match found.and_then(|index| Some((index, self.rules.get(index)?))) {
            Some((index, rule)) => EgressDecision {
                mode: rule.mode,
                peers: &rule.peers,
                rule: RuleRef::Egress {
                    index,
                    to: self.index.labels.get(index).cloned().unwrap_or_default(),
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

    /// Whether any rule is by name.
    pub fn has_names(&self) -> bool {
        !self.index.by_name.is_empty()
    }

    /// Every name that has a rule .
    pub fn names(&self) -> impl Iterator<Item = &DnsName> {
        self.index.by_name.keys()
    }

    /// Whether it is one of these.
    pub fn looks_up(&self, name: &DnsName) -> bool {
        self.index.by_name.contains_key(name)
    }
}

/// Finds the rules for a destination in as many steps as there are lengths of prefixes, and for a name
/// in one.
#[derive(Clone, Debug, Default)]
struct Index {
    /// Indices of the rules of each network that have no name, the narrowest range of ports first, then
    /// the earlier rule.
    by_network: HashMap<Cidr, Vec<usize>>,
    /// Lengths of the prefixes that there are, the longest first.
    prefixes_v4: BTreeSet<Reverse<u8>>,
    prefixes_v6: BTreeSet<Reverse<u8>>,
    by_name: HashMap<DnsName, Vec<usize>>,
    /// What each rule is for, as log lines name it.
    labels: Vec<Arc<str>>,
}

impl Index {
    fn of(rules: &[EgressRule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in rules.iter().enumerate() {
            let numbers = match &rule.to {
                Destinations::Network { cidr } => {
                    let prefixes = match cidr.network() {
                        IpAddr::V4(_) => &mut index.prefixes_v4,
                        IpAddr::V6(_) => &mut index.prefixes_v6,
                    };
                    prefixes.insert(Reverse(cidr.prefix()));
                    index.by_network.entry(*cidr).or_default()
                }
                Destinations::Name { name } | Destinations::NameWithin { name, .. } => {
                    index.by_name.entry(name.clone()).or_default()
                }
            };
            numbers.push(number);
            index.labels.push(rule.label().into());
        }
        for numbers in index.by_network.values_mut() {
            numbers.sort_by_key(|&number| rules[number].ports.width());
        }
        index
    }

    /// The rules whose networks the address lies in, the most specific first.
    fn networks(&self, address: IpAddr) -> impl Iterator<Item = usize> {
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

    /// The rules for a name.
    fn named(&self, name: &DnsName) -> &[usize] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests;
