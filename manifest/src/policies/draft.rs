use std::net::IpAddr;
use std::num::NonZeroU32;

use attestation::identity::{DnsName, SpiffeId, TrustDomain};

use crate::error::{Collector, Problem};
use crate::path::{Path, quoted};
use crate::policies::directory::Directory;
use crate::policies::{AllowedPeers, Policy, Role, names};
use crate::read::{Cursor, Json, Object};

/// A policy as it stands, before the names that it refers to are looked up. What is `None` is
/// unreadable and reported.
pub(super) struct Draft<'a> {
    pub(super) path: Path,
    pub(super) identity: Option<SpiffeId>,
    pub(super) dns: Vec<DnsName>,
    /// Whether each of the names could be read.
    pub(super) names_complete: bool,
    pub(super) role: Option<Role>,
    ip: Vec<IpAddr>,
    workload_secret_id: Option<String>,
    max_instances: Option<NonZeroU32>,
    allowed_peers: Option<Vec<Cursor<'a>>>,
    hosts: Vec<Cursor<'a>>,
    /// How many errors it has so far.
    errors: usize,
}

pub(super) fn draft<'a>(
    cursor: &Cursor<'a>,
    trust_domain: Option<&TrustDomain>,
    errors: &Collector,
) -> Option<Draft<'a>> {
    let before = errors.count();
    let object = cursor.object(&[
        "SANs",
        "WorkloadSecretID",
        "Role",
        "SpiffeID",
        "AllowedPeers",
        "MaxInstances",
        "Hosts",
    ])?;
    let names = names::names(&object, trust_domain, errors);
    let identity = names.identity(&object, cursor.path(), trust_domain, errors);
    let role = role(&object);
    Some(Draft {
        path: cursor.path().clone(),
        identity,
        dns: names.dns,
        names_complete: names.complete,
        ip: names.ip,
        workload_secret_id: workload_secret_id(&object),
        max_instances: max_instances(&object),
        allowed_peers: object
            .optional("AllowedPeers")
            .map(|peers| peers.list().unwrap_or_default()),
        hosts: hosts(&object, role),
        role,
        errors: errors.count() - before,
    })
}

impl Draft<'_> {
    /// The policy, if nothing about it is wrong: half of one would seem to contradict others.
    pub(super) fn finish(&self, directory: &Directory<'_>, errors: &Collector) -> Option<Policy> {
        let allowed_peers = self
            .allowed_peers
            .as_ref()
            .map_or(Some(AllowedPeers::Any), |peers| {
                let peers = directory.resolve_all(peers, None, errors)?;
                Some(AllowedPeers::Only(peers.into_iter().collect()))
            });
        let hosts = directory.resolve_all(&self.hosts, Some(Role::Workload), errors);
        let policy = Policy {
            spiffe_id: self.identity.clone()?,
            dns: self.dns.clone(),
            ip: self.ip.clone(),
            workload_secret_id: self.workload_secret_id.clone(),
            role: self.role?,
            allowed_peers: allowed_peers?,
            max_instances: self.max_instances,
            hosts: hosts?,
        };
        (self.errors == 0).then_some(policy)
    }
}

/// An empty role is a workload's, as Contrast's tools write it.
fn role(object: &Object<'_>) -> Option<Role> {
    let Some(cursor) = object.optional("Role") else {
        return Some(Role::Workload);
    };
    if matches!(cursor.json(), Json::String(role) if role.is_empty()) {
        return Some(Role::Workload);
    }
    match cursor.string()? {
        "node" => Some(Role::Node),
        "coordinator" => Some(Role::Coordinator),
        unknown => {
            let want = "coordinator, node, or no role for a workload";
            cursor.report(Problem::UnknownRole, quoted(unknown), want);
            None
        }
    }
}

/// An empty id is none, as Contrast's tools write it.
fn workload_secret_id(object: &Object<'_>) -> Option<String> {
    let cursor = object.optional("WorkloadSecretID")?;
    if matches!(cursor.json(), Json::String(id) if id.is_empty()) {
        return None;
    }
    let id = cursor.string()?;
    if id.len() > MAX_SECRET_ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        cursor.reject(format_args!(
            "at most {MAX_SECRET_ID_BYTES} printable ASCII characters without space"
        ));
    }
    Some(id.to_owned())
}

fn max_instances(object: &Object<'_>) -> Option<NonZeroU32> {
    let cursor = object.optional("MaxInstances")?;
    let number = cursor.integer(1..=u64::from(u32::MAX))?;
    NonZeroU32::new(u32::try_from(number).ok()?)
}

fn hosts<'a>(object: &Object<'a>, role: Option<Role>) -> Vec<Cursor<'a>> {
    let Some(cursor) = object.optional("Hosts") else {
        return Vec::new();
    };
    let hosts = cursor.list().unwrap_or_default();
    match role {
        Some(Role::Workload | Role::Coordinator) if !hosts.is_empty() => {
            cursor.reject("no such field, or the role node: only a node hosts workloads");
            Vec::new()
        }
        _ => hosts,
    }
}

/// Long enough for what Contrast generates: kind, namespace and name of a Kubernetes object.
const MAX_SECRET_ID_BYTES: usize = 512;
