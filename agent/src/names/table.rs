//! What the names in a workload's rules lead to, at one moment.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::policy::{DnsName, EgressPolicy, Unknown};

/// Which addresses have which names, as far as rules are for these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NameTable {
    of_address: HashMap<IpAddr, Arc<[DnsName]>>,
    unknown: Vec<(DnsName, Unknown)>,
}

impl NameTable {
    /// Of these pairs, and of names that are not known.
    pub(crate) fn new(
        pairs: impl IntoIterator<Item = (IpAddr, DnsName)>,
        unknown: Vec<(DnsName, Unknown)>,
    ) -> Self {
        let mut of_address: HashMap<IpAddr, BTreeSet<DnsName>> = HashMap::new();
        for (address, name) in pairs {
            let names = of_address.entry(address.to_canonical()).or_default();
            names.insert(name);
        }
        let of_address = of_address.into_iter();
        Self {
            of_address: of_address
                .map(|(address, names)| (address, names.into_iter().collect()))
                .collect(),
            unknown,
        }
    }

    /// Nothing is known yet of the names that the rules have.
    pub(crate) fn pending(egress: &EgressPolicy) -> Self {
        let names = egress.names().cloned();
        Self {
            of_address: HashMap::new(),
            unknown: names.map(|name| (name, Unknown::Pending)).collect(),
        }
    }

    /// What is known under other rules: what was known stays so, names that they did not have are pending.
    pub(crate) fn under(&self, before: &EgressPolicy, egress: &EgressPolicy) -> Self {
        let mut unknown: Vec<_> = egress
            .names()
            .filter(|name| !before.looks_up(name))
            .map(|name| (name.clone(), Unknown::Pending))
            .collect();
        unknown.extend(self.unknown.iter().cloned());
        Self {
            of_address: self.of_address.clone(),
            unknown,
        }
    }

    /// The names of a destination.
    pub(crate) fn names(&self, destination: SocketAddr) -> Option<&Arc<[DnsName]>> {
        self.of_address.get(&destination.ip().to_canonical())
    }

    /// Names that are not known, and why.
    pub(crate) fn unknown(&self) -> &[(DnsName, Unknown)] {
        &self.unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Destinations, EgressMode, EgressRule, PeerSet, PortRange};

    #[test]
    fn an_address_has_all_its_names_in_either_form() {
        let pairs = [
            ("10.0.0.1", "a.org"),
            ("::ffff:10.0.0.1", "b.org"),
            ("10.0.0.1", "a.org"),
            ("fd00::1", "a.org"),
        ];
        let pairs = pairs.map(|(address, name)| (address.parse().unwrap(), name.parse().unwrap()));
        let table = NameTable::new(pairs, Vec::new());
        let names = |to: &str| {
            let names = table.names(to.parse().unwrap());
            let names = names.into_iter().flat_map(|names| &**names);
            names.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("10.0.0.1:80"), ["a.org", "b.org"]);
        assert_eq!(names("[::ffff:10.0.0.1]:80"), ["a.org", "b.org"]);
        assert_eq!(names("[fd00::1]:80"), ["a.org"]);
        assert_eq!(names("10.0.0.2:80"), [""; 0]);
    }

    #[test]
    fn under_other_rules_only_names_that_are_new_are_pending() {
        let [one, both] = [&["a.org"][..], &["a.org", "b.org"]].map(policy);
        let address = "10.0.0.1".parse().unwrap();
        let known = NameTable::new([(address, "a.org".parse().unwrap())], Vec::new());
        let expected = NameTable {
            unknown: vec![("b.org".parse().unwrap(), Unknown::Pending)],
            ..known.clone()
        };
        assert_eq!(known.under(&one, &both), expected);
        assert_eq!(known.under(&both, &one), known);
        assert_eq!(NameTable::pending(&one).unknown.len(), 1);
    }

    fn policy(names: &[&str]) -> EgressPolicy {
        let rules = names.iter().map(|name| EgressRule {
            to: Destinations::Name {
                name: name.parse().unwrap(),
            },
            ports: PortRange::ALL,
            workload: None,
            mode: EgressMode::Deny,
            peers: PeerSet::any(),
        });
        EgressPolicy::new(EgressMode::Mtls, PeerSet::any(), rules.collect())
    }
}
