use std::fmt;
use std::time::Duration;

use attestation::identity::{SpiffeId, TrustDomain};
use attestation::{Digest, Tee};

use crate::diff::PolicyChange;
use crate::policies::{AllowedPeers, Policy, Role};
use crate::rotation::{RotationMode, in_words};

/// One thing that differs between two manifests. Displays in one line, with what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Every identity is another one.
    TrustDomain {
        /// The trust domain so far.
        old: TrustDomain,
        /// The trust domain from now on.
        new: TrustDomain,
    },
    /// Guests of one more policy are trusted.
    PolicyAdded {
        /// Its hash.
        hash: Digest,
        /// What it says.
        policy: Policy,
    },
    /// Guests of a policy are no longer trusted.
    PolicyRemoved {
        /// Its hash.
        hash: Digest,
        /// What it said.
        policy: Policy,
    },
    /// A policy says something else of the same guests.
    PolicyChanged {
        /// Its hash.
        hash: Digest,
        /// Its identity from now on.
        spiffe_id: SpiffeId,
        /// What it says.
        change: PolicyChange,
    },
    /// Another configuration of machine and guest is trusted.
    ReferenceValueAdded {
        /// The kind of TEE.
        tee: Tee,
        /// Where it stands in the new manifest, such as `snp[0]`.
        entry: String,
        /// The measurement of the guest's initial memory, in hexadecimal digits.
        measurement: String,
    },
    /// A configuration of machine and guest is no longer trusted.
    ReferenceValueRemoved {
        /// The kind of TEE.
        tee: Tee,
        /// Where it stood in the old manifest, such as `snp[0]`.
        entry: String,
        /// The measurement of the guest's initial memory, in hexadecimal digits.
        measurement: String,
    },
    /// More or less is demanded of machine and guest.
    ReferenceValueChanged {
        /// Where it stands in the new manifest, such as `snp[0]`.
        entry: String,
        /// The field, such as `MinimumTCB.SNPVersion`.
        field: &'static str,
        /// Its value so far.
        old: String,
        /// Its value from now on.
        new: String,
    },
    /// One more key may sign updates: SHA-256 of its `SubjectPublicKeyInfo`.
    WorkloadOwnerAdded(Digest),
    /// A key may no longer sign updates: SHA-256 of its `SubjectPublicKeyInfo`.
    WorkloadOwnerRemoved(Digest),
    /// More or fewer owners must sign an update.
    UpdateQuorum {
        /// The number so far.
        old: usize,
        /// The number from now on; 0 if there are no owners.
        new: usize,
    },
    /// One more owner gets a share of the seed: SHA-256 of the key in PKCS#1 form.
    SeedshareOwnerAdded(Digest),
    /// An owner gets no new share of the seed: SHA-256 of the key in PKCS#1 form.
    SeedshareOwnerRemoved(Digest),
    /// More or fewer shares recover the seed.
    SeedshareQuorum {
        /// The number so far.
        old: usize,
        /// The number from now on; 0 if there are no owners.
        new: usize,
    },
    /// Updates take over in another way.
    RotationMode {
        /// The mode so far.
        old: RotationMode,
        /// The mode from now on.
        new: RotationMode,
    },
    /// Updates wait longer or shorter for agents.
    RotationDeadline {
        /// The deadline so far.
        old: Duration,
        /// The deadline from now on.
        new: Duration,
    },
    /// Certificates last longer or shorter.
    CertificateLifetime {
        /// The lifetime so far.
        old: Duration,
        /// The lifetime from now on.
        new: Duration,
    },
}

impl Change {
    /// The name of the kind of change, for programs: `policy-removed`, or for what changes within a
    /// policy `peer-withdrawn` and the like. Stays the same across versions.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TrustDomain { .. } => "trust-domain",
            Self::PolicyAdded { .. } => "policy-added",
            Self::PolicyRemoved { .. } => "policy-removed",
            Self::PolicyChanged { change, .. } => change.kind(),
            Self::ReferenceValueAdded { .. } => "reference-value-added",
            Self::ReferenceValueRemoved { .. } => "reference-value-removed",
            Self::ReferenceValueChanged { .. } => "reference-value-changed",
            Self::WorkloadOwnerAdded(_) => "workload-owner-added",
            Self::WorkloadOwnerRemoved(_) => "workload-owner-removed",
            Self::UpdateQuorum { .. } => "update-quorum",
            Self::SeedshareOwnerAdded(_) => "seedshare-owner-added",
            Self::SeedshareOwnerRemoved(_) => "seedshare-owner-removed",
            Self::SeedshareQuorum { .. } => "seedshare-quorum",
            Self::RotationMode { .. } => "rotation-mode",
            Self::RotationDeadline { .. } => "rotation-deadline",
            Self::CertificateLifetime { .. } => "certificate-lifetime",
        }
    }

    /// What it is about: a policy's hash, a key's digest, `snp[0]`, or the field of the manifest.
    pub fn subject(&self) -> String {
        match self {
            Self::TrustDomain { .. } => "TrustDomain".to_owned(),
            Self::PolicyAdded { hash, .. }
            | Self::PolicyRemoved { hash, .. }
            | Self::PolicyChanged { hash, .. } => hash.to_string(),
            Self::ReferenceValueAdded { entry, .. }
            | Self::ReferenceValueRemoved { entry, .. }
            | Self::ReferenceValueChanged { entry, .. } => entry.clone(),
            Self::WorkloadOwnerAdded(key)
            | Self::WorkloadOwnerRemoved(key)
            | Self::SeedshareOwnerAdded(key)
            | Self::SeedshareOwnerRemoved(key) => key.to_string(),
            Self::UpdateQuorum { .. } => "UpdateQuorum".to_owned(),
            Self::SeedshareQuorum { .. } => "SeedshareQuorum".to_owned(),
            Self::RotationMode { .. } => "Rotation.Mode".to_owned(),
            Self::RotationDeadline { .. } => "Rotation.DeadlineSeconds".to_owned(),
            Self::CertificateLifetime { .. } => "CertificateLifetime".to_owned(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TrustDomain { old, new } => write!(
                f,
                "trust domain {old} -> {new}: every identity is a new one, and connections of the \
                 old ones are closed"
            ),
            Self::PolicyAdded { hash, policy } => {
                write!(f, "policy {hash} added: {}", Added(policy))
            }
            Self::PolicyRemoved { hash, policy } => {
                write!(
                    f,
                    "policy {hash} ({}) removed: {}",
                    policy.spiffe_id,
                    removed(policy.role)
                )
            }
            Self::PolicyChanged {
                hash,
                spiffe_id,
                change,
            } => write!(f, "policy {hash} ({spiffe_id}): {change}"),
            Self::ReferenceValueAdded {
                tee,
                entry,
                measurement,
            } => write!(
                f,
                "reference value {entry} added: {tee} guests with measurement {measurement} are \
                 trusted"
            ),
            Self::ReferenceValueRemoved {
                tee,
                entry,
                measurement,
            } => write!(
                f,
                "reference value {entry} removed: {tee} guests with measurement {measurement} get \
                 no certificate, unless another entry lists them"
            ),
            Self::ReferenceValueChanged {
                entry,
                field,
                old,
                new,
            } => write!(
                f,
                "reference value {entry}: {field} {old} -> {new}: holds for every certificate \
                 from now on"
            ),
            Self::WorkloadOwnerAdded(key) => {
                write!(f, "owner key {key} added: it may sign updates")
            }
            Self::WorkloadOwnerRemoved(key) => {
                write!(f, "owner key {key} removed: its signature no longer counts")
            }
            Self::UpdateQuorum { old, new: 0 } => write!(
                f,
                "update quorum {old} -> 0: no owners are left, and this manifest can never be \
                 changed again"
            ),
            Self::UpdateQuorum { old, new } => {
                write!(
                    f,
                    "update quorum {old} -> {new}: an update takes {}",
                    counted(*new, "owner")
                )
            }
            Self::SeedshareOwnerAdded(key) => write!(
                f,
                "seed-share owner {key} added: new shares are made, one for every owner"
            ),
            Self::SeedshareOwnerRemoved(key) => write!(
                f,
                "seed-share owner {key} removed: it gets no new share; who holds a quorum of old \
                 ones still has the seed"
            ),
            Self::SeedshareQuorum { old, new } => write!(
                f,
                "seed-share quorum {old} -> {new}: recovery takes {}",
                counted(*new, "share")
            ),
            Self::RotationMode { old, new } => {
                let consequence = match new {
                    RotationMode::Graceful => "updates drop no connection of who stays trusted",
                    RotationMode::Strict => "updates withdraw the old mesh CA at once",
                };
                write!(f, "rotation {old} -> {new}: {consequence}")
            }
            Self::RotationDeadline { old, new } => write!(
                f,
                "rotation deadline {} -> {}: agents that take longer are left behind",
                in_words(*old),
                in_words(*new)
            ),
            Self::CertificateLifetime { old, new } => write!(
                f,
                "certificate lifetime {} -> {}: holds for every certificate from now on",
                in_words(*old),
                in_words(*new)
            ),
        }
    }
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

fn removed(role: Role) -> &'static str {
    match role {
        Role::Workload => "its certificates are withdrawn and its connections closed",
        Role::Node => {
            "its certificates and those of the workloads on such nodes are withdrawn and their \
             connections closed"
        }
        Role::Coordinator => "such a Coordinator is no longer trusted and recovers from no other",
    }
}

/// What it means for a policy to be trusted.
struct Added<'a>(&'a Policy);

impl fmt::Display for Added<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Policy {
            spiffe_id,
            role,
            allowed_peers,
            hosts,
            ..
        } = self.0;
        match role {
            Role::Coordinator => {
                return write!(
                    f,
                    "such a Coordinator may recover the seed and issue certificates"
                );
            }
            Role::Workload => write!(f, "its guests get certificates as {spiffe_id}")?,
            Role::Node => write!(
                f,
                "its guests are nodes, get certificates as {spiffe_id} and host {}",
                counted(hosts.len(), "workload")
            )?,
        }
        match allowed_peers {
            AllowedPeers::Any => write!(f, " and may talk with every member of the mesh"),
            AllowedPeers::Only(peers) => {
                write!(f, " and may talk with {}", counted(peers.len(), "peer"))
            }
        }
    }
}
