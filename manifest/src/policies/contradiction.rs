//! Policies that share an identity and say different things of it.

use std::collections::{BTreeMap, BTreeSet};

use attestation::Digest;
use attestation::identity::SpiffeId;

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
    let mut first: BTreeMap<&SpiffeId, (&Policy, &Path)> = BTreeMap::new();
    for (policy, path) in policies.values().zip(paths.values()) {
        let Some((other, other_path)) = first.get(&policy.spiffe_id) else {
            first.insert(&policy.spiffe_id, (policy, path));
            continue;
        };
        for (field, got, want) in [
            ("Role", role(policy), role(other)),
            ("SANs", names(policy), names(other)),
            ("AllowedPeers", peers(policy), peers(other)),
            ("Hosts", hosts(policy), hosts(other)),
        ] {
            if got != want {
                let id = &policy.spiffe_id;
                let (got, want) = (listed(&got), listed(&want));
                let want = format_args!("{want} as in {other_path}: both are {id}");
                errors.mismatch(&path.field(field), got, want);
            }
        }
    }
}

fn role(policy: &Policy) -> BTreeSet<String> {
    BTreeSet::from([policy.role.to_string()])
}

fn names(policy: &Policy) -> BTreeSet<String> {
    let dns = policy.dns.iter().map(ToString::to_string);
    dns.chain(policy.ip.iter().map(ToString::to_string))
        .collect()
}

fn peers(policy: &Policy) -> BTreeSet<String> {
    match &policy.allowed_peers {
        AllowedPeers::Any => BTreeSet::from(["any".to_owned()]),
        AllowedPeers::Only(ids) => ids.iter().map(ToString::to_string).collect(),
    }
}

fn hosts(policy: &Policy) -> BTreeSet<String> {
    policy.hosts.iter().map(ToString::to_string).collect()
}

fn listed(values: &BTreeSet<String>) -> String {
    let shown: Vec<_> = values.iter().take(MAX_SHOWN).map(String::as_str).collect();
    match values.len() {
        0 => "none".to_owned(),
        len if len > MAX_SHOWN => format!("{} and {} more", shown.join(", "), len - MAX_SHOWN),
        _ => shown.join(", "),
    }
}

const MAX_SHOWN: usize = 8;
