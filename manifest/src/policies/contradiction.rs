//! Policies that share an identity and say different things of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use attestation::Digest;
use attestation::identity::{DnsName, SpiffeId};

use crate::error::Collector;
use crate::path::Path;
use crate::policies::{AllowedPeers, Policy};

/// While a workload is upgraded, the old and the new image have one identity under two hashes. A
/// peer can't tell them apart, so they must have the same names and rights.
pub(super) fn check(
    policies: &BTreeMap<Digest, Policy>,
    paths: &BTreeMap<Digest, Path>,
    errors: &Collector,
) {
    let mut first: BTreeMap<&SpiffeId, Claims<'_>> = BTreeMap::new();
    for (policy, path) in policies.values().zip(paths.values()) {
        let claims = Claims::of(policy, path);
        match first.get(&policy.spiffe_id) {
            Some(earlier) => claims.compare(earlier, errors),
            None => {
                first.insert(&policy.spiffe_id, claims);
            }
        }
    }
}

/// What a policy says of its identity, in a form whose comparison costs no more than the shorter of
/// the two: any number of policies may share an identity with one that says a lot.
struct Claims<'a> {
    policy: &'a Policy,
    path: &'a Path,
    dns: BTreeSet<&'a DnsName>,
    ip: BTreeSet<&'a IpAddr>,
    hosts: BTreeSet<&'a SpiffeId>,
}

impl<'a> Claims<'a> {
    fn of(policy: &'a Policy, path: &'a Path) -> Self {
        Self {
            policy,
            path,
            dns: policy.dns.iter().collect(),
            ip: policy.ip.iter().collect(),
            hosts: policy.hosts.iter().collect(),
        }
    }

    fn compare(&self, earlier: &Self, errors: &Collector) {
        let differ = |field, got: &dyn fmt::Display, want: &dyn fmt::Display| {
            let (path, id) = (earlier.path, &self.policy.spiffe_id);
            let want = format_args!("{want} as in {path}: both are {id}");
            errors.mismatch(&self.path.field(field), got, want);
        };
        let (policy, other) = (self.policy, earlier.policy);
        if policy.role != other.role {
            differ("Role", &policy.role, &other.role);
        }
        if (&self.dns, &self.ip) != (&earlier.dns, &earlier.ip) {
            differ("SANs", &self.names(), &earlier.names());
        }
        if policy.allowed_peers != other.allowed_peers {
            differ("AllowedPeers", &self.peers(), &earlier.peers());
        }
        if self.hosts != earlier.hosts {
            differ("Hosts", &listed(&self.hosts), &listed(&earlier.hosts));
        }
    }

    fn names(&self) -> impl fmt::Display {
        let dns = self.dns.iter().map(ToString::to_string);
        let names: Vec<_> = dns
            .chain(self.ip.iter().map(ToString::to_string))
            .take(MAX_SHOWN)
            .collect();
        shown(&names, self.dns.len() + self.ip.len())
    }

    fn peers(&self) -> impl fmt::Display {
        match &self.policy.allowed_peers {
            AllowedPeers::Any => "any".to_owned(),
            AllowedPeers::Only(ids) => listed(ids),
        }
    }
}

fn listed<T: ToString>(values: &BTreeSet<T>) -> String {
    let texts: Vec<_> = values.iter().take(MAX_SHOWN).map(T::to_string).collect();
    shown(&texts, values.len())
}

fn shown(texts: &[String], of: usize) -> String {
    match of - texts.len() {
        0 if texts.is_empty() => "none".to_owned(),
        0 => texts.join(", "),
        more => format!("{} and {more} more", texts.join(", ")),
    }
}

const MAX_SHOWN: usize = 8;
