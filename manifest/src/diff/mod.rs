//! What changes from one manifest to the next, and what follows from it.

mod change;
mod policy;
mod reference_values;

use std::collections::BTreeSet;

use attestation::Digest;

use crate::manifest::Manifest;

pub use change::Change;
pub use policy::PolicyChange;

/// Every change in meaning from `old` to `new`, in the order of the manifest's fields. Order,
/// spacing and defaults written out make none.
pub fn diff(old: &Manifest, new: &Manifest) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.trust_domain() != new.trust_domain() {
        changes.push(Change::TrustDomain {
            old: old.trust_domain().clone(),
            new: new.trust_domain().clone(),
        });
    }
    policies(old, new, &mut changes);
    changes.extend(reference_values::changes(
        old.reference_values(),
        new.reference_values(),
    ));
    owners(old, new, &mut changes);
    let (from, to) = (old.rotation(), new.rotation());
    if from.mode != to.mode {
        changes.push(Change::RotationMode {
            old: from.mode,
            new: to.mode,
        });
    }
    if from.deadline != to.deadline {
        changes.push(Change::RotationDeadline {
            old: from.deadline,
            new: to.deadline,
        });
    }
    let (from, to) = (old.certificate_lifetime(), new.certificate_lifetime());
    if from != to {
        changes.push(Change::CertificateLifetime { old: from, new: to });
    }
    changes
}

fn policies(old: &Manifest, new: &Manifest, changes: &mut Vec<Change>) {
    for (hash, policy) in old.policies() {
        match new.policy(hash) {
            None => changes.push(Change::PolicyRemoved {
                hash: *hash,
                policy: policy.clone(),
            }),
            Some(successor) => {
                changes.extend(
                    policy::changes(policy, successor)
                        .into_iter()
                        .map(|change| Change::PolicyChanged {
                            hash: *hash,
                            spiffe_id: successor.spiffe_id.clone(),
                            change,
                        }),
                );
            }
        }
    }
    let added = new
        .policies()
        .iter()
        .filter(|(hash, _)| old.policy(hash).is_none());
    changes.extend(added.map(|(hash, policy)| Change::PolicyAdded {
        hash: *hash,
        policy: policy.clone(),
    }));
}

fn owners(old: &Manifest, new: &Manifest, changes: &mut Vec<Change>) {
    let (removed, added) = difference(old.workload_owners(), new.workload_owners());
    changes.extend(removed.map(|owner| Change::WorkloadOwnerRemoved(*owner)));
    changes.extend(added.map(|owner| Change::WorkloadOwnerAdded(*owner)));
    if old.update_quorum() != new.update_quorum() {
        changes.push(Change::UpdateQuorum {
            old: old.update_quorum(),
            new: new.update_quorum(),
        });
    }
    let (removed, added) = difference(old.seedshare_owners(), new.seedshare_owners());
    changes.extend(removed.map(|key| Change::SeedshareOwnerRemoved(Digest::of(key))));
    changes.extend(added.map(|key| Change::SeedshareOwnerAdded(Digest::of(key))));
    if old.seedshare_quorum() != new.seedshare_quorum() {
        changes.push(Change::SeedshareQuorum {
            old: old.seedshare_quorum(),
            new: new.seedshare_quorum(),
        });
    }
}

/// What only `old` has, then what only `new` has, sorted.
fn difference<'a, T: Ord + 'a>(
    old: impl IntoIterator<Item = &'a T>,
    new: impl IntoIterator<Item = &'a T>,
) -> (impl Iterator<Item = &'a T>, impl Iterator<Item = &'a T>) {
    let old: BTreeSet<_> = old.into_iter().collect();
    let new: BTreeSet<_> = new.into_iter().collect();
    let removed: Vec<_> = old.difference(&new).copied().collect();
    let added: Vec<_> = new.difference(&old).copied().collect();
    (removed.into_iter(), added.into_iter())
}
