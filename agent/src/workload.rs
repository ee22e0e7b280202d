//! A workload as it runs: what the configuration says of it, and what the system made of that.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use ebpf_abi::WorkloadId;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use socket2::{Domain, Socket, Type};
use thiserror::Error;
use tokio::sync::watch;

use crate::{
    bpf::{Tenancy, netns_cookie},
    certificates::Credential,
    config,
    netns::Netns,
    policy::WorkloadName,
    rules::{CurrentRules, Rules},
};

/// What connections of a workload need to know of it. Shared by all workers.
#[derive(Debug)]
pub struct Workload {
    /// What logs and metrics call it.
    pub name: WorkloadName,
    /// What the kernel side calls it.
    pub id: WorkloadId,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its network namespace.
    pub netns: Netns,
    /// The namespace's cookie, as the kernel side sees it on sockets.
    pub netns_cookie: u64,
    /// Whose programs are in the namespace.
    pub tenancy: Tenancy,
    /// Its rules.
    pub(crate) rules: CurrentRules,
    /// What it proves itself with; changes while connections come and go.
    pub credential: watch::Receiver<Credential>,
    /// Which device of its namespace is not guarded and why, if one is not. Then nothing new begins.
    pub unguarded: watch::Sender<Option<String>>,
    /// Whether the kernel side is to be told of it by this agent.
    pub(crate) telling: watch::Sender<Telling>,
}

/// Who tells the kernel side of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// This agent.
    Own,
    /// Another agent did for a while; this one is to tell everything anew.
    Anew,
    /// Another agent does.
    Others,
}

/// Why a workload can't be served.
#[derive(Debug, Error)]
pub enum WorkloadError {
    /// Something of the system could not be read.
    #[error("workload {workload}: {what} {path}: {source}")]
    System {
        /// The workload.
        workload: WorkloadName,
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Steering the host's own namespace would capture the host's own connections.
    #[error(
        "workload {0}: its network namespace is the host's own, where every service of the host \
         would be steered; give the workload a namespace of its own and name it with netns, or say \
         shares_netns = true (--shares-netns) to steer what its programs alone do"
    )]
    HostNamespace(WorkloadName),
    /// The agent's own connections would be turned to the agent.
    #[error(
        "workload {0}: the agent itself runs in the workload's cgroup; start it in another one"
    )]
    AgentInside(WorkloadName),
}

impl Workload {
    /// Looks up what the configuration names. Changes nothing.
    pub fn find(
        config: &config::Workload,
        credential: watch::Receiver<Credential>,
    ) -> Result<Self, WorkloadError> {
        let failed = |what, path: &Path| {
            let (workload, path) = (config.name.clone(), path.to_owned());
            move |source| WorkloadError::System {
                workload,
                what,
                path,
                source,
            }
        };
        let cgroup = fs::canonicalize(&config.cgroup)
            .map_err(failed("opening the cgroup", &config.cgroup))?;
        let id = fs::metadata(&cgroup)
            .map_err(failed("opening the cgroup", &cgroup))?
            .ino();
        let own = own_cgroup().map_err(failed("reading", Path::new(OWN_CGROUP)))?;
        if own.starts_with(&cgroup) {
            return Err(WorkloadError::AgentInside(config.name.clone()));
        }
        let tenancy = if config.shares_netns {
            Tenancy::Shared
        } else {
            Tenancy::Sole
        };
        let netns = match &config.netns {
            Some(path) => Netns::open(path),
            None => Netns::own(),
        };
        let path = config
            .netns
            .as_deref()
            .unwrap_or(Path::new("/proc/self/ns/net"));
        let netns = netns.map_err(failed("opening the network namespace", path))?;
        let (netns_cookie, is_hosts) = netns
            .run(|| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                Ok((
                    netns_cookie(&socket)?,
                    Path::new(HOST_ONLY_SETTING).exists(),
                ))
            })
            .map_err(failed("entering the network namespace", path))?;
        if is_hosts && tenancy == Tenancy::Sole {
            return Err(WorkloadError::HostNamespace(config.name.clone()));
        }
        Ok(Self {
            name: config.name.clone(),
            id: WorkloadId(id),
            cgroup,
            netns,
            netns_cookie,
            tenancy,
            rules: CurrentRules::new(Arc::new(Rules::of(config))),
            credential,
            unguarded: watch::Sender::default(),
            telling: watch::Sender::new(Telling::Own),
        })
    }

    /// Why nothing of the workload may begin now, if nothing may. The hooks know both reasons as the
    /// lack of a credential.
    pub(crate) fn explain_refusals(&self, now: SystemTime) -> Option<String> {
        let unguarded = self.unguarded.borrow().clone();
        unguarded.or_else(|| self.credential.borrow().explain(now))
    }

    /// The ids of its cgroup and of all below it.
    pub(crate) fn cgroup_ids(&self) -> io::Result<HashSet<u64>> {
        let mut ids = HashSet::new();
        let mut unread = vec![self.cgroup.clone()];
        while let Some(cgroup) = unread.pop() {
            ids.insert(fs::metadata(&cgroup)?.ino());
            for entry in fs::read_dir(&cgroup)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    unread.push(entry.path());
                }
            }
        }
        Ok(ids)
    }

    /// The directory of its links: the same for as long as the links can be taken over.
    pub fn owner(&self) -> String {
        let Self {
            name,
            id,
            netns_cookie,
            tenancy,
            ..
        } = self;
        // Other programs are attached, so those before can't be taken over.
        let kind = match tenancy {
            Tenancy::Sole => "",
            Tenancy::Shared => "-shared",
        };
        format!("{name}-{}-{netns_cookie}{kind}", id.0)
    }
}

/// The agent's own cgroup2 directory.
///
/// # Errors
/// Where no cgroup2 file system is mounted.
pub fn own_cgroup() -> io::Result<PathBuf> {
    let membership = fs::read_to_string(OWN_CGROUP)?;
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or_else(|| io::Error::other("the process is in no cgroup2 hierarchy"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut directories = mounts
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .filter(|(_, kind)| kind.starts_with("cgroup2 "))
        .filter_map(|(mount, _)| mount.split_whitespace().nth(4))
        .map(|mount| Path::new(mount).join(path));
    // Another file system may be mounted over it.
    let is_cgroup = |path: &PathBuf| {
        statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
    };
    let found = directories.find(is_cgroup);
    found.ok_or_else(|| io::Error::other("no cgroup2 file system is mounted"))
}

const OWN_CGROUP: &str = "/proc/self/cgroup";

/// A setting that the kernel shows in its first network namespace only.
const HOST_ONLY_SETTING: &str = "/proc/sys/net/core/netdev_budget";
