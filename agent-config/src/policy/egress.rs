//! What happens to a connection that a workload opens, by its destination and by who answers there.

mod in_clear;
mod proof;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::iter::repeat;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use attestation::identity::SpiffeId;
use serde::Serialize;

use super::{Cidr, DnsName, EgressMode, NamePattern, PeerSet, PortRange, RuleRef, WorkloadMatch};

pub use in_clear::Unprovable;

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
    /// Who must have answered there; `None`: whoever it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadMatch>,
    /// What happens to the connection.
    pub mode: EgressMode,
    /// Who may answer; matters for [`EgressMode::Mtls`] only. Of a rule by workload, that workload.
    pub peers: PeerSet,
}

impl EgressRule {
    /// What it is for, whatever the port: `10.0.0.0/8`, `workload cart`, `workload cart at 10.0.0.0/8`
    pub(crate) fn subject(&self) -> String {
        self.of_workload(self.to.to_string())
    }

    /// `10.0.0.0/8:5432`, `db.example.com:5432 in 10.0.0.0/8`, `workload cart at 10.0.0.0/8:5432`
    fn label(&self) -> String {
        self.of_workload(self.place())
    }

    fn of_workload(&self, place: String) -> String {
        match &self.workload {
            Some(workload) if place == ANYWHERE => format!("workload {workload}"),
            Some(workload) => format!("workload {workload} at {place}"),
            None => place,
        }
    }

    fn place(&self) -> String {
        let Self { to, ports, .. } = self;
        if *ports == PortRange::ALL {
            return to.to_string();
        }
        match to {
            Destinations::Network { cidr } if cidr.network().is_ipv6() => {
                format!("[{cidr}]:{ports}")
            }
            Destinations::NameWithin { name, cidr } => format!("{name}:{ports} in {cidr}"),
            Destinations::Anywhere {}
            | Destinations::Network { .. }
            | Destinations::Name { .. } => {
                format!("{to}:{ports}")
            }
        }
    }

    /// How specific it is, of those that are for one address, before names and ports. What has no
    /// network comes first, and what is for fewer peers.
    fn precedence(&self) -> (u8, u8) {
        let prefix = self.to.cidr().map_or(u8::MAX, Cidr::prefix);
        let workload = self.workload.as_ref();
        (prefix, workload.map_or(0, WorkloadMatch::specificity))
    }
}

/// The addresses that an egress rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum Destinations {
    /// All that there are, as only a rule by workload can have.
    Anywhere {},
    /// All of a network.
    Network {
        /// The network.
        cidr: Cidr,
    },
    /// Those that a name has, or the names below one, wherever they are.
    Name {
        /// The name or names.
        name: NamePattern,
    },
    /// The same, as far as they lie in a network: no resolver can add others.
    NameWithin {
        /// The name or names.
        name: NamePattern,
        /// The network.
        cidr: Cidr,
    },
}

impl Destinations {
    /// The name or names, where it is by name.
    pub fn name(&self) -> Option<&NamePattern> {
        match self {
            Self::Anywhere {} | Self::Network { .. } => None,
            Self::Name { name } | Self::NameWithin { name, .. } => Some(name),
        }
    }

    /// The network, where there is one.
    pub fn cidr(&self) -> Option<Cidr> {
        match self {
            Self::Network { cidr } | Self::NameWithin { cidr, .. } => Some(*cidr),
            Self::Anywhere {} | Self::Name { .. } => None,
        }
    }
}

impl fmt::Display for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anywhere {} => f.write_str(ANYWHERE),
            Self::Network { cidr } => cidr.fmt(f),
            Self::Name { name } => name.fmt(f),
            Self::NameWithin { name, cidr } => write!(f, "{name} in {cidr}"),
        }
    }
}

/// What is known of names when a destination is judged. By default nothing has a name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The names that have the destination's address, as the agent has looked them up.
    pub names: &'a [DnsName],
    /// What the workload's programs were told of the address.
    pub heard: Heard<'a>,
    /// The names that may have it, as what they have is not known.
    pub unknown: &'a [(DnsName, Unknown)],
}

/// What resolvers have told a workload's programs of an address, as far as the agent has heard.
#[derive(Clone, Copy, Debug, Default)]
pub enum Heard<'a> {
    /// Nothing: any name may have it.
    #[default]
    Nothing,
    /// These names have it; those that no rule is for are left out.
    Names(&'a [HeardName]),
}

impl<'a> Heard<'a> {
    fn names(self) -> &'a [HeardName] {
        match self {
            Self::Nothing => &[],
            Self::Names(names) => names,
        }
    }
}

/// A name that a program was told has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeardName {
    /// The name.
    pub name: DnsName,
    /// What that can do.
    pub force: Force,
}

/// What it can do that a program was told of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Whatever the rules for the names below another say.
    Full,
    /// It makes nothing plaintext: it has run out of late, or is an alias that nobody asked for.
    NotInClear,
}

/// Why the addresses of a name are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// It is being looked up for the first time.
    Pending,
    /// Nobody could say.
    Failed,
    /// It stands for names that can't be looked up, and no program was heard to be told of the address.
    Unheard,
}

/// A destination can't be judged: a rule may be for it, by a name whose addresses are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// The rule that may be for it.
    pub rule: RuleRef,
    /// Its name or names.
    pub name: NamePattern,
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

    /// What happens to a connection to `destination`, as long as nobody knows who answers there: rules
    /// by workload are not asked. A v4-mapped address counts as the IPv4 address.
    ///
    /// The longest prefix wins, a name without a network coming before every network; then a name
    /// before none, an exact one before a wildcard, the longer wildcard; then the narrower range of
    /// ports. If an address has two names with rules that are still equal but for how exact the names
    /// are, the stricter mode wins, then the earlier rule.
    ///
    /// # Errors
    /// Where a rule that may win is stricter than what was found, or has other peers, and the
    /// addresses of its name are not known; or is any other, and they will be soon.
    pub fn decide(
        &self,
        destination: SocketAddr,
        known: Known<'_>,
    ) -> Result<EgressDecision<'_>, Undecided> {
        self.best(destination, known, None)
    }

    /// What happens to it once `peer` has proved to be who answers there: rules by workload are asked,
    /// too. At the same network one of them comes before those without, that of an identity first; one
    /// without network and name before every network, as a name.
    ///
    /// # Errors
    /// As [`Self::decide`].
    pub fn decide_for(
        &self,
        destination: SocketAddr,
        known: Known<'_>,
        peer: &SpiffeId,
    ) -> Result<EgressDecision<'_>, Undecided> {
        self.best(destination, known, Some(peer))
    }

    fn best(
        &self,
        destination: SocketAddr,
        known: Known<'_>,
        peer: Option<&SpiffeId>,
    ) -> Result<EgressDecision<'_>, Undecided> {
        let mut found = (self.by_network(destination, peer), None);
        // For each name its own best rule, then the strictest of these: what one name is excepted from
        // another may be under.
        let looked_up = known.names.iter().map(|name| (name, Origin::LookedUp));
        let heard = known.heard.names().iter();
        let heard = heard.map(|it| (&it.name, Origin::Heard(it.force)));
        for (name, origin) in looked_up.chain(heard) {
            let best = self.best_by(name, origin, destination, peer);
            if best.is_some() && self.rank(best) > self.rank(found.0) {
                found = (best, Some(name));
            }
        }
        let decision = self.decision(found);
        let unknown = known.unknown.iter();
        let unknown =
            unknown.flat_map(|(name, why)| self.index.named(name).iter().zip(repeat(*why)));
        // What has a name is taken to have no others that nobody spoke of.
        let unheard = match known.heard {
            Heard::Nothing if known.names.is_empty() => &*self.index.wildcards,
            Heard::Nothing | Heard::Names(_) => &[],
        };
        for (&index, why) in unknown.chain(unheard.iter().zip(repeat(Unknown::Unheard))) {
            if self.may_be_of(index, peer, &decision, why)
                && self.matches(index, destination)
                && self.rank(Some(index)) > self.rank(found.0)
                && self.would_matter(index, &decision, why)
                && let Some(name) = self.rules.get(index).and_then(|rule| rule.to.name())
            {
                return Err(Undecided {
                    rule: self.decision((Some(index), None)).rule,
                    name: name.clone(),
                    why,
                });
            }
        }
        Ok(decision)
    }

    /// The best rule for a name that the destination has.
    fn best_by(
        &self,
        name: &DnsName,
        origin: Origin,
        destination: SocketAddr,
        peer: Option<&SpiffeId>,
    ) -> Option<usize> {
        let candidates = self.index.of_name(name).filter(|&index| {
            self.matches(index, destination)
                && self.is_of(index, peer)
                && self.may_be_by(index, origin)
        });
        candidates.max_by_key(|&index| {
            let rule = &self.rules[index];
            let specificity = rule.to.name().map(NamePattern::specificity);
            let width = Reverse(rule.ports.width());
            (
                rule.precedence(),
                specificity,
                width,
                rule.mode.strictness(),
                Reverse(index),
            )
        })
    }

    /// Whether a name that is known in this way can bring the rule about. What one name alone may have
    /// in clear is for the agent's own look-up to say.
    fn may_be_by(&self, index: usize, origin: Origin) -> bool {
        self.rules.get(index).is_some_and(|rule| {
            let is_wildcard = rule.to.name().is_some_and(|name| name.name().is_none());
            match (rule.mode, origin) {
                (EgressMode::Mtls | EgressMode::Deny, _) | (_, Origin::LookedUp) => true,
                (EgressMode::Plaintext, Origin::Heard(Force::Full)) => is_wildcard,
                (EgressMode::Plaintext, Origin::Heard(Force::NotInClear)) => false,
            }
        })
    }

    fn by_network(&self, destination: SocketAddr, peer: Option<&SpiffeId>) -> Option<usize> {
        let anywhere = self.index.anywhere.iter().copied();
        let mut candidates = anywhere.chain(self.index.networks(destination.ip()));
        candidates.find(|&index| self.matches(index, destination) && self.is_of(index, peer))
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
        let strictness = rule.to.name().map(|_| rule.mode.strictness());
        let width = Reverse(rule.ports.width());
        let is_named = rule.to.name().is_some();
        let precedence = rule.precedence();
        Some((precedence, is_named, width, strictness, Reverse(index)))
    }

    /// Whether it makes a difference that a more specific rule is not known to be for a destination.
    fn would_matter(&self, index: usize, found: &EgressDecision<'_>, why: Unknown) -> bool {
        let Some(rule) = self.rules.get(index) else {
            return false;
        };
        match (rule.mode, found.mode) {
            // It does not help to wait for ever for a permission.
            (_, EgressMode::Deny) | (EgressMode::Plaintext, _) => why == Unknown::Pending,
            // Lets one peer more through.
            (EgressMode::Mtls, EgressMode::Mtls) if rule.workload.is_some() => {
                why == Unknown::Pending
            }
            (EgressMode::Mtls, EgressMode::Mtls) => rule.peers != *found.peers,
            (EgressMode::Mtls, EgressMode::Plaintext)
            | (EgressMode::Deny, EgressMode::Mtls | EgressMode::Plaintext) => true,
        }
    }

    /// By a rule, and by the name that it was found by.
    fn decision(&self, (found, name): (Option<usize>, Option<&DnsName>)) -> EgressDecision<'_> {
        match found.and_then(|index| Some((index, self.rules.get(index)?))) {
            Some((index, rule)) => {
                let label = self.index.labels.get(index).cloned().unwrap_or_default();
                let to = match (rule.to.name(), name) {
                    (Some(NamePattern::Below(_)), Some(name)) => format!("{label} ({name})").into(),
                    _ => label,
                };
                EgressDecision {
                    mode: rule.mode,
                    peers: &rule.peers,
                    rule: RuleRef::Egress { index, to },
                }
            }
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

    /// Whether any rule is by the names below one.
    pub fn has_wildcards(&self) -> bool {
        !self.index.wildcards.is_empty()
    }

    /// Every name that has a rule.
    pub fn names(&self) -> impl Iterator<Item = &DnsName> {
        self.index.by_name.keys()
    }

    /// Whether it is one of these.
    pub fn looks_up(&self, name: &DnsName) -> bool {
        self.index.by_name.contains_key(name)
    }

    /// The most specific of the patterns in rules that a name is of. Two names of one are under the same
    /// rules.
    pub fn pattern_of(&self, name: &DnsName) -> Option<NamePattern> {
        if self.looks_up(name) {
            return Some(NamePattern::Name(name.clone()));
        }
        let below = |parent| Some(self.index.below.get_key_value(parent)?.0.clone());
        name.parents().find_map(below).map(NamePattern::Below)
    }

    /// Whether every name is of the same pattern here as there.
    pub fn has_same_patterns(&self, other: &Self) -> bool {
        let keys = |index: &Index| -> [BTreeSet<DnsName>; 2] {
            [&index.by_name, &index.below].map(|it| it.keys().cloned().collect())
        };
        keys(&self.index) == keys(&other.index)
    }
}

/// How it is known that an address has a name.
#[derive(Clone, Copy)]
enum Origin {
    LookedUp,
    Heard(Force),
}

/// Finds the rules for a destination in as many steps as there are lengths of prefixes, and for a name
/// in one.
#[derive(Clone, Debug, Default)]
struct Index {
    /// Indices of the rules that have neither network nor name, in the order of those of a network.
    anywhere: Vec<usize>,
    /// Indices of the rules of each network that have no name: those for fewer peers first, then the
    /// narrowest range of ports, then the earlier rule.
    by_network: HashMap<Cidr, Vec<usize>>,
    /// Lengths of the prefixes that there are, the longest first.
    prefixes_v4: BTreeSet<Reverse<u8>>,
    prefixes_v6: BTreeSet<Reverse<u8>>,
    by_name: HashMap<DnsName, Vec<usize>>,
    /// Of the rules for the names below one, by that.
    below: HashMap<DnsName, Vec<usize>>,
    /// All of these.
    wildcards: Vec<usize>,
    /// Those that are by workload, whatever else.
    by_workload: Vec<usize>,
    /// What each rule is for, as log lines name it.
    labels: Vec<Arc<str>>,
}

impl Index {
    fn of(rules: &[EgressRule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in rules.iter().enumerate() {
            if rule.workload.is_some() {
                index.by_workload.push(number);
            }
            let numbers = match &rule.to {
                Destinations::Anywhere {} => &mut index.anywhere,
                Destinations::Network { cidr } => {
                    let prefixes = match cidr.network() {
                        IpAddr::V4(_) => &mut index.prefixes_v4,
                        IpAddr::V6(_) => &mut index.prefixes_v6,
                    };
                    prefixes.insert(Reverse(cidr.prefix()));
                    index.by_network.entry(*cidr).or_default()
                }
                Destinations::Name { name } | Destinations::NameWithin { name, .. } => match name {
                    NamePattern::Name(name) => index.by_name.entry(name.clone()).or_default(),
                    NamePattern::Below(parent) => {
                        index.wildcards.push(number);
                        index.below.entry(parent.clone()).or_default()
                    }
                },
            };
            numbers.push(number);
            index.labels.push(rule.label().into());
        }
        for numbers in index.by_network.values_mut().chain([&mut index.anywhere]) {
            numbers.sort_by_key(|&number| {
                let rule = &rules[number];
                (Reverse(rule.precedence()), rule.ports.width())
            });
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

    /// The rules that a name is under.
    fn of_name(&self, name: &DnsName) -> impl Iterator<Item = usize> {
        let below = name.parents().filter_map(|parent| self.below.get(parent));
        let below = below.flatten();
        self.named(name).iter().chain(below).copied()
    }

    /// The rules for one name.
    fn named(&self, name: &DnsName) -> &[usize] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }
}

/// A rule that names neither addresses nor a name, as log lines have it.
const ANYWHERE: &str = "*";

#[cfg(test)]
mod tests;
