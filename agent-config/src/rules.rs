//! The rules of one workload, both directions.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::EgressListener;
use super::check::Checker;
use super::contrast::{self, EntryError};
use super::file::{EgressKeys, Given, IngressKeys, ListenerKeys, Origin};
use super::problem::{Problem, Rule};
use crate::policy::{
    Destinations, Direction, EgressMode, EgressPolicy, EgressRule, IngressMode, IngressPolicy,
    IngressRule, NamePattern, PeerEntry, PeerMatch, PeerSet, PortRange, Unprovable, WorkloadMatch,
};

impl Checker<'_> {
    pub(super) fn ingress_policy(
        &mut self,
        default: Option<Given<String>>,
        peers: Option<Given<Vec<Given<String>>>>,
        rules: Vec<Given<IngressKeys>>,
    ) -> IngressPolicy {
        let default = self.ingress_mode("ingress_default", default);
        let mut defaults = self.default_peers(Direction::Ingress, peers);
        defaults.used |= default == IngressMode::Mtls;
        let mut accepted = Vec::new();
        let mut first_of = HashMap::new();

        for (
            index,
            Given {
                value: keys,
                origin,
            },
        ) in rules.into_iter().enumerate()
        {
            self.enter(Some(Rule::Ingress(index)));
            let mode = self.ingress_mode("mode", keys.mode);
            let is_mtls = mode == IngressMode::Mtls;
            let peers = self.rule_peers(is_mtls, mode.as_str(), keys.peers, &mut defaults);
            let Some(given) = self.required("port", ADD_PORT, keys.port, origin) else {
                continue;
            };
            let origin = given.origin;
            let Some(port) = self.port("port", given.into()) else {
                continue;
            };
            match first_of.entry(port) {
                Entry::Vacant(entry) => {
                    entry.insert(index);
                }
                Entry::Occupied(first) => {
                    let problem = Problem::DuplicatePort {
                        port: port.get(),
                        first: *first.get(),
                    };
                    self.report(origin, problem);
                }
            }
            accepted.push(IngressRule { port, mode, peers });
        }
        self.enter(None);

        self.report_unused(&defaults);
        IngressPolicy::new(default, defaults.set, accepted)
    }

    pub(super) fn egress_policy(
        &mut self,
        default: Option<Given<String>>,
        peers: Option<Given<Vec<Given<String>>>>,
        rules: Vec<Given<EgressKeys>>,
        listeners: Vec<Given<ListenerKeys>>,
    ) -> (EgressPolicy, Vec<EgressListener>) {
        let default = self.egress_mode("egress_default", default);
        let mut defaults = self.default_peers(Direction::Egress, peers);
        defaults.used |= default == EgressMode::Mtls;
        let given = rules.len();
        let mut accepted: Vec<EgressRule> = Vec::new();
        // Where those are in the configuration.
        let mut places = Vec::new();
        // Only rules for the same destinations can be rivals.
        let mut of_destinations: HashMap<_, Vec<usize>> = HashMap::new();

        for (
            index,
            Given {
                value: keys,
                origin,
            },
        ) in rules.into_iter().enumerate()
        {
            self.enter(Some(Rule::Egress(index)));
            let EgressKeys {
                cidr,
                name,
                workload,
                port,
                mode,
                peers,
            } = keys;
            let mode = self.egress_mode("mode", mode);
            let place = workload.as_ref().or(name.as_ref()).or(cidr.as_ref());
            let place = place.map_or(origin, |given| given.origin);
            let by_workload = workload.is_some();
            let peers = if by_workload {
                self.no_peers(peers);
                None
            } else {
                let is_mtls = mode == EgressMode::Mtls;
                Some(self.rule_peers(is_mtls, mode.as_str(), peers, &mut defaults))
            };
            let ports = match port {
                Some(port) => self.port_range(port.into()),
                None => Some(PortRange::ALL),
            };
            let to = self.destinations(mode, cidr, name, by_workload, origin);
            let workload = workload.and_then(|given| self.workload_match(mode, given));
            let peers = workload.as_ref().map(WorkloadMatch::peers).or(peers);
            let (Some(to), Some(ports), Some(peers)) = (to, ports, peers) else {
                continue;
            };
            let rule = EgressRule {
                to,
                ports,
                workload,
                mode,
                peers,
            };
            let others = of_destinations.entry(rule.to.clone()).or_default();
            for &other in &*others {
                let (first, _) = places[other];
                if let Some(problem) = rivalry(&rule, first, &accepted[other]) {
                    self.report(place, problem);
                }
            }
            others.push(accepted.len());
            accepted.push(rule);
            places.push((index, place));
        }
        let is_whole = accepted.len() == given;
        let policy = EgressPolicy::new(default, defaults.set.clone(), accepted);
        // A rule that is left out may be what makes another one right.
        if is_whole {
            self.unprovable(&policy, &places);
        }
        let listeners = self.listeners(listeners, &mut defaults);
        self.enter(None);

        self.report_unused(&defaults);
        (policy, listeners)
    }

    fn unprovable(&mut self, policy: &EgressPolicy, places: &[(usize, Origin)]) {
        for Unprovable { rule, in_clear } in policy.unprovable() {
            let (index, place) = places[rule];
            let Some(workload) = policy.rules()[rule].workload.clone() else {
                continue;
            };
            self.enter(Some(Rule::Egress(index)));
            let problem = match in_clear.map(|in_clear| places[in_clear].0) {
                Some(in_clear) => Problem::WorkloadInClear { workload, in_clear },
                None => Problem::WorkloadInClearByDefault { workload },
            };
            self.report(place, problem);
        }
    }

    fn workload_match(&mut self, mode: EgressMode, given: Given<String>) -> Option<WorkloadMatch> {
        let Given { value: got, origin } = given;
        if mode == EgressMode::Plaintext {
            self.report(origin, Problem::PlaintextWorkload);
        }
        let parsed = got.parse();
        parsed
            .map_err(|reason| self.report(origin, Problem::Workload { got, reason }))
            .ok()
    }

    fn no_peers(&mut self, given: Option<Given<Vec<Given<String>>>>) {
        if let Some(given) = given {
            self.report(given.origin, Problem::PeersWithWorkload);
        }
    }

    fn destinations(
        &mut self,
        mode: EgressMode,
        cidr: Option<Given<String>>,
        name: Option<Given<String>>,
        by_workload: bool,
        origin: Origin,
    ) -> Option<Destinations> {
        if cidr.is_none() && name.is_none() {
            if by_workload {
                return Some(Destinations::Anywhere {});
            }
            self.report(origin, Problem::NoDestination { add: ADD_CIDR });
            return None;
        }
        let (has_cidr, has_name) = (cidr.is_some(), name.as_ref().map(|name| name.origin));
        let cidr = cidr.and_then(|Given { value: got, origin }| {
            let parsed = got.parse();
            parsed
                .map_err(|reason| self.report(origin, Problem::Cidr { got, reason }))
                .ok()
        });
        let name: Option<NamePattern> = name.and_then(|Given { value: got, origin }| {
            let parsed = got.parse();
            parsed
                .map_err(|reason| self.report(origin, Problem::DnsName { got, reason }))
                .ok()
        });
        match (cidr, name, has_name) {
            (Some(cidr), None, None) => Some(Destinations::Network { cidr }),
            (Some(cidr), Some(name), _) => Some(Destinations::NameWithin { name, cidr }),
            (None, Some(name), Some(origin)) if !has_cidr => {
                if mode == EgressMode::Plaintext {
                    let name = name.to_string();
                    self.report(origin, Problem::PlaintextName { name });
                }
                Some(Destinations::Name { name })
            }
            // What was given is wrong.
            _ => None,
        }
    }

    fn listeners(
        &mut self,
        given: Vec<Given<ListenerKeys>>,
        defaults: &mut DefaultPeers,
    ) -> Vec<EgressListener> {
        let mut accepted: Vec<(usize, EgressListener)> = Vec::new();
        for (
            index,
            Given {
                value: keys,
                origin,
            },
        ) in given.into_iter().enumerate()
        {
            self.enter(Some(Rule::Listener(index)));
            let peers = self.rule_peers(true, EgressMode::Mtls.as_str(), keys.peers, defaults);
            let listen = self.required("listen", ADD_LISTEN, keys.listen, origin);
            let remote = self.required("remote", ADD_REMOTE, keys.remote, origin);
            let place = listen.as_ref().map_or(origin, |listen| listen.origin);
            let listen = listen.and_then(|it| self.entry(&it, contrast::parse_listen));
            let remote = remote.and_then(|it| self.entry(&it, contrast::parse_remote));
            let (Some(listen), Some(remote)) = (listen, remote) else {
                continue;
            };
            if let Some((first, _)) = accepted.iter().find(|(_, other)| other.listen == listen) {
                let first = *first;
                self.report(place, Problem::DuplicateListener { listen, first });
            }
            let listener = EgressListener {
                listen,
                remote,
                peers,
            };
            accepted.push((index, listener));
        }
        accepted.into_iter().map(|(_, listener)| listener).collect()
    }

    fn entry<T>(
        &mut self,
        given: &Given<String>,
        parse: fn(&str) -> Result<T, EntryError>,
    ) -> Option<T> {
        let parsed = parse(&given.value);
        parsed
            .map_err(|error| self.report(given.origin, Problem::Entry(error)))
            .ok()
    }

    fn ingress_mode(&mut self, key: &'static str, given: Option<Given<String>>) -> IngressMode {
        self.word(
            key,
            given,
            IngressMode::Mtls,
            &IngressMode::ALL,
            IngressMode::as_str,
        )
    }

    fn egress_mode(&mut self, key: &'static str, given: Option<Given<String>>) -> EgressMode {
        self.word(
            key,
            given,
            EgressMode::Mtls,
            &EgressMode::ALL,
            EgressMode::as_str,
        )
    }

    fn port_range(&mut self, given: Given<String>) -> Option<PortRange> {
        let Given { value: got, origin } = given;
        match got.parse() {
            Ok(ports) => Some(ports),
            Err(reason) => {
                self.report(
                    origin,
                    Problem::Port {
                        key: "port",
                        got,
                        reason,
                    },
                );
                None
            }
        }
    }

    fn default_peers(
        &mut self,
        direction: Direction,
        given: Option<Given<Vec<Given<String>>>>,
    ) -> DefaultPeers {
        let key = match direction {
            Direction::Ingress => "ingress_peers",
            Direction::Egress => "egress_peers",
        };
        let origin = given.as_ref().map(|given| given.origin);
        let set = given.map_or_else(PeerSet::any, |given| self.peers(key, direction, given));
        DefaultPeers {
            key,
            direction,
            set,
            origin,
            used: false,
        }
    }

    fn rule_peers(
        &mut self,
        is_mtls: bool,
        mode: &'static str,
        given: Option<Given<Vec<Given<String>>>>,
        defaults: &mut DefaultPeers,
    ) -> PeerSet {
        let Some(given) = given else {
            defaults.used |= is_mtls;
            return defaults.set.clone();
        };
        if !is_mtls {
            self.report(given.origin, Problem::PeersNeedMtls { mode });
        }
        self.peers("peers", defaults.direction, given)
    }

    fn peers(
        &mut self,
        key: &'static str,
        direction: Direction,
        Given {
            value: entries,
            origin,
        }: Given<Vec<Given<String>>>,
    ) -> PeerSet {
        // Nobody may come in: a workload that only calls others. Nobody may be called: that is deny.
        if entries.is_empty() && direction == Direction::Egress {
            self.report(origin, Problem::NoPeers { key });
        }
        let is_denied = |entry: &Given<String>| entry.value.starts_with('!');
        let denied = entries.iter().filter(|entry| is_denied(entry)).count();
        if denied > 0 && denied == entries.len() {
            self.report(origin, Problem::OnlyDenied { key });
        }
        let several_allowed = entries.len() - denied > 1;
        let mut seen = HashSet::new();
        let mut accepted = Vec::new();
        for Given { value: got, origin } in entries {
            match got.parse() {
                Err(reason) => self.report(origin, Problem::Peer { got, reason }),
                Ok(PeerEntry::Allow(PeerMatch::Any)) if several_allowed => {
                    self.report(origin, Problem::AnyAmongPeers { key });
                }
                Ok(PeerEntry::Deny(PeerMatch::Any)) => {
                    self.report(origin, Problem::NotAny { key });
                }
                Ok(entry) if seen.contains(&entry.opposite()) => {
                    let opposite = entry.opposite().to_string();
                    self.report(origin, Problem::PeerContradiction { key, got, opposite });
                }
                Ok(entry) if !seen.insert(entry.clone()) => {
                    self.report(origin, Problem::DuplicatePeer { key, got });
                }
                Ok(entry) => accepted.push(entry),
            }
        }
        accepted.into_iter().collect()
    }

    fn report_unused(&mut self, defaults: &DefaultPeers) {
        if let (Some(origin), false) = (defaults.origin, defaults.used) {
            let direction = defaults.direction.as_str();
            self.report(
                origin,
                Problem::UnusedPeers {
                    key: defaults.key,
                    direction,
                },
            );
        }
    }
}

/// `ingress_peers` or `egress_peers`, and whether anything depends on them.
struct DefaultPeers {
    key: &'static str,
    direction: Direction,
    set: PeerSet,
    origin: Option<Origin>,
    used: bool,
}

/// Two rules for the same destinations are fine as long as one of them is the exception to the other.
fn rivalry(rule: &EgressRule, first: usize, other: &EgressRule) -> Option<Problem> {
    let (ports, first_ports) = (rule.ports, other.ports);
    if !ports.overlaps(first_ports) {
        return None;
    }
    match (&rule.workload, &other.workload) {
        (None, None) => {}
        (Some(one), Some(two)) if one == two => {}
        (Some(one), Some(two)) => {
            let is_exception = one.is_narrower_than(two) || two.is_narrower_than(one);
            let is_tie = one.overlaps(two) && !is_exception;
            return is_tie.then(|| Problem::WorkloadOverlap {
                workload: one.clone(),
                other: two.clone(),
                first,
            });
        }
        (Some(_), None) | (None, Some(_)) => return None,
    }
    let to = rule.subject();
    if ports == first_ports {
        return Some(Problem::DuplicateEgress { to, first });
    }
    let one_is_narrower =
        ports.is_narrower_than(first_ports) || first_ports.is_narrower_than(ports);
    (!one_is_narrower).then_some(Problem::EgressOverlap {
        to,
        ports,
        first,
        first_ports,
    })
}

const ADD_PORT: &str = "add port = 8080, the port that the program listens on";
const ADD_LISTEN: &str = "add listen = \"127.137.0.1:5432\", what the program dials";
const ADD_REMOTE: &str = "add remote = \"host:port\"";
const ADD_CIDR: &str = "add cidr = \"10.0.0.0/8\", or \"0.0.0.0/0\" and \"::/0\" for every address, or name = \"db.example.com\", or workload = \"db\"";
