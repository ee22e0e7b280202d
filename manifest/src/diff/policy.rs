use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;

use attestation::identity::SpiffeId;

use crate::diff::difference;
use crate::policies::{AllowedPeers, Policy, Role};

/// What changes in one policy. Displays with what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyChange {
    /// It has another identity.
    SpiffeId {
        /// The identity so far.
        old: SpiffeId,
        /// The identity from now on.
        new: SpiffeId,
    },
    /// A host name or address is added.
    NameAdded(String),
    /// A host name or address is removed.
    NameRemoved(String),
    /// Its secret is another one.
    WorkloadSecretId {
        /// What the secret was derived from.
        old: Option<String>,
        /// What it is derived from now.
        new: Option<String>,
    },
    /// It does something else.
    Role {
        /// The role so far.
        old: Role,
        /// The role from now on.
        new: Role,
    },
    /// It may talk with every member of the mesh.
    AllPeersAllowed,
    /// It could talk with every member of the mesh and may now with these alone.
    PeersRestricted(BTreeSet<SpiffeId>),
    /// It may talk with one more.
    PeerAllowed(SpiffeId),
    /// It may no longer talk with one.
    PeerWithdrawn(SpiffeId),
    /// More or fewer instances may hold a certificate.
    MaxInstances {
        /// The cap so far.
        old: Option<NonZeroU32>,
        /// The cap from now on.
        new: Option<NonZeroU32>,
    },
    /// The node may ask certificates for one more workload.
    HostAdded(SpiffeId),
    /// The node may no longer ask certificates for a workload.
    HostRemoved(SpiffeId),
}

impl PolicyChange {
    /// The name of the kind of change, for programs.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::SpiffeId { .. } => "spiffe-id",
            Self::NameAdded(_) => "name-added",
            Self::NameRemoved(_) => "name-removed",
            Self::WorkloadSecretId { .. } => "workload-secret-id",
            Self::Role { .. } => "role",
            Self::AllPeersAllowed => "all-peers-allowed",
            Self::PeersRestricted(_) => "peers-restricted",
            Self::PeerAllowed(_) => "peer-allowed",
            Self::PeerWithdrawn(_) => "peer-withdrawn",
            Self::MaxInstances { .. } => "max-instances",
            Self::HostAdded(_) => "host-added",
            Self::HostRemoved(_) => "host-removed",
        }
    }
}

impl fmt::Display for PolicyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpiffeId { old, new } => write!(
                f,
                "SPIFFE ID {old} -> {new}: certificates of the old one are withdrawn and their \
                 connections closed"
            ),
            Self::NameAdded(name) => {
                write!(f, "name {name} added: its next certificate has it")
            }
            Self::NameRemoved(name) => {
                write!(f, "name {name} removed: its next certificate lacks it")
            }
            Self::WorkloadSecretId { old, new } => {
                let name = |id: &Option<String>| id.clone().unwrap_or_else(|| "none".to_owned());
                write!(
                    f,
                    "workload secret id {} -> {}: what was encrypted with the old secret can't be \
                     read with the new one",
                    name(old),
                    name(new)
                )
            }
            Self::Role { old, new } => write!(f, "role {old} -> {new}"),
            Self::AllPeersAllowed => {
                write!(f, "every member of the mesh is allowed as peer from now on")
            }
            Self::PeersRestricted(peers) => {
                let peers: Vec<_> = peers.iter().map(SpiffeId::as_str).collect();
                let peers = if peers.is_empty() {
                    "nobody".to_owned()
                } else {
                    peers.join(", ")
                };
                write!(
                    f,
                    "allowed peers: any -> {peers}: connections with others are closed"
                )
            }
            Self::PeerAllowed(peer) => write!(f, "peer {peer} allowed"),
            Self::PeerWithdrawn(peer) => {
                write!(f, "peer {peer} withdrawn: connections with it are closed")
            }
            Self::MaxInstances { old, new } => {
                let cap = |cap: &Option<NonZeroU32>| {
                    cap.map_or_else(|| "no limit".to_owned(), |cap| cap.to_string())
                };
                write!(f, "instances at most {} -> {}", cap(old), cap(new))
            }
            Self::HostAdded(id) => write!(f, "the node may host {id}"),
            Self::HostRemoved(id) => write!(
                f,
                "the node may no longer host {id}: it gets no certificate there"
            ),
        }
    }
}

pub(super) fn changes(old: &Policy, new: &Policy) -> Vec<PolicyChange> {
    let mut changes = Vec::new();
    let Policy {
        spiffe_id,
        dns: _,
        ip: _,
        workload_secret_id,
        role,
        allowed_peers,
        max_instances,
        hosts,
    } = old;
    if *spiffe_id != new.spiffe_id {
        changes.push(PolicyChange::SpiffeId {
            old: spiffe_id.clone(),
            new: new.spiffe_id.clone(),
        });
    }
    let (old_names, new_names) = (names(old), names(new));
    let (removed, added) = difference(&old_names, &new_names);
    changes.extend(removed.cloned().map(PolicyChange::NameRemoved));
    changes.extend(added.cloned().map(PolicyChange::NameAdded));
    if *workload_secret_id != new.workload_secret_id {
        changes.push(PolicyChange::WorkloadSecretId {
            old: workload_secret_id.clone(),
            new: new.workload_secret_id.clone(),
        });
    }
    if *role != new.role {
        changes.push(PolicyChange::Role {
            old: *role,
            new: new.role,
        });
    }
    match (allowed_peers, &new.allowed_peers) {
        (AllowedPeers::Any, AllowedPeers::Any) => {}
        (AllowedPeers::Only(_), AllowedPeers::Any) => changes.push(PolicyChange::AllPeersAllowed),
        (AllowedPeers::Any, AllowedPeers::Only(peers)) => {
            changes.push(PolicyChange::PeersRestricted(peers.clone()));
        }
        (AllowedPeers::Only(old), AllowedPeers::Only(new)) => {
            let (removed, added) = difference(old, new);
            changes.extend(removed.cloned().map(PolicyChange::PeerWithdrawn));
            changes.extend(added.cloned().map(PolicyChange::PeerAllowed));
        }
    }
    if *max_instances != new.max_instances {
        changes.push(PolicyChange::MaxInstances {
            old: *max_instances,
            new: new.max_instances,
        });
    }
    let (removed, added) = difference(hosts, &new.hosts);
    changes.extend(removed.cloned().map(PolicyChange::HostRemoved));
    changes.extend(added.cloned().map(PolicyChange::HostAdded));
    changes
}

fn names(policy: &Policy) -> Vec<String> {
    let dns = policy.dns.iter().map(ToString::to_string);
    dns.chain(policy.ip.iter().map(ToString::to_string))
        .collect()
}
