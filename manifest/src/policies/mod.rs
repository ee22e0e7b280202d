//! Policies: who a guest is, by the hash of what it was started with.

mod contradiction;
mod directory;
mod draft;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use attestation::Digest;
use attestation::identity::{DnsName, SpiffeId, TrustDomain};

use crate::error::{Collector, Problem};
use crate::path::Path;
use crate::read::Object;

use directory::Directory;
use draft::Draft;

/// What a guest that was started with a certain policy is, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its identity in the mesh. Policies may share one, for the time of an upgrade; they then have
    /// the same role, names, allowed peers and hosted workloads.
    pub spiffe_id: SpiffeId,
    /// Its host names, in the order of the manifest.
    pub dns: Vec<DnsName>,
    /// Its addresses, in the order of the manifest.
    pub ip: Vec<IpAddr>,
    /// What its secret is derived from; without it there is no secret.
    pub workload_secret_id: Option<String>,
    /// What it does in the mesh.
    pub role: Role,
    /// Who it may talk with, in either direction.
    pub allowed_peers: AllowedPeers,
    /// How many instances may hold a certificate at a time.
    pub max_instances: Option<NonZeroU32>,
    /// The workloads that a node's agent may ask certificates for.
    pub hosts: Vec<SpiffeId>,
}

/// What a guest does in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It runs a program.
    Workload,
    /// It runs an agent that serves the workloads of its node.
    Node,
    /// It is a Coordinator.
    Coordinator,
}

impl Role {
    /// The name in texts; the manifest has no name for a workload's.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Node => "node",
            Self::Coordinator => "coordinator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who a guest may talk with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedPeers {
    /// Every member of the mesh.
    Any,
    /// These alone; nobody if there are none.
    Only(BTreeSet<SpiffeId>),
}

/// The policies with their hashes, and the Coordinator's.
pub(crate) struct Policies {
    pub(crate) all: BTreeMap<Digest, Policy>,
    pub(crate) coordinator: (Digest, Policy),
}

/// `trust_domain` is `None` where it is unreadable, which is reported already.
pub(crate) fn policies(
    root: &Object<'_>,
    trust_domain: Option<&TrustDomain>,
    errors: &Collector,
) -> Option<Policies> {
    let mut drafts = Vec::new();
    for (key, cursor) in root.required("Policies")?.map()? {
        let hash = hash(key, cursor.path(), errors);
        drafts.push((hash, draft::draft(&cursor, trust_domain, errors)));
    }
    check_coordinators(&drafts, &root.path_of("Policies"), errors);

    let directory = Directory::new(drafts.iter().map(|(_, draft)| draft.as_ref()));
    let mut all = BTreeMap::new();
    let mut paths = BTreeMap::new();
    for (hash, draft) in &drafts {
        let Some(draft) = draft else { continue };
        let policy = draft.finish(&directory, errors);
        if let Some((hash, policy)) = hash.zip(policy) {
            all.insert(hash, policy);
            paths.insert(hash, draft.path.clone());
        }
    }
    contradiction::check(&all, &paths, errors);

    let coordinator = all
        .iter()
        .find(|(_, policy)| policy.role == Role::Coordinator)
        .map(|(hash, policy)| (*hash, policy.clone()))?;
    Some(Policies { all, coordinator })
}

/// Lower case alone: with two spellings of one hash, which of two policies holds?
fn hash(key: &str, path: &Path, errors: &Collector) -> Option<Digest> {
    let lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if key.len() != 64 {
        let problem = Problem::PolicyHashLength { found: key.len() };
        let got = format_args!("{} bytes", key.len());
        errors.add(path, problem, got, "64 hexadecimal digits");
        return None;
    }
    let hash = Digest::from_hex(key).filter(|_| key.bytes().all(lower_hex));
    if hash.is_none() {
        let want = "64 hexadecimal digits in lower case";
        errors.mismatch(path, "a policy hash with other characters", want);
    }
    hash
}

/// Says nothing as long as a role is unreadable: it may have been meant as the Coordinator's.
fn check_coordinators(
    drafts: &[(Option<Digest>, Option<Draft<'_>>)],
    path: &Path,
    errors: &Collector,
) {
    let mut found = 0;
    for (_, draft) in drafts {
        match draft.as_ref().and_then(|draft| draft.role) {
            Some(Role::Coordinator) => found += 1,
            Some(Role::Workload | Role::Node) => {}
            None => return,
        }
    }
    if found != 1 {
        let problem = Problem::Coordinators { found };
        errors.add(
            path,
            problem,
            format_args!("{found} of them"),
            "exactly one",
        );
    }
}
