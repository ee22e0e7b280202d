//! The programs of an instance, by way of the loader. What each call does: [`crate::bpf::Steering`].

use std::{collections::HashSet, fs::File, os::fd::AsFd as _, path::Path};

use nix::errno::Errno;

use super::{
    DnsAnswers, Loader, LoaderError, LocalHops, Refusals,
    protocol::{
        AgentCgroups, AttachAgent, AttachWorkload, Detach, DropPrograms, ForgetAgentsBut,
        GuardDevices, IsAttached, Open, Opened, Overhear, Read, Readings, ReleaseWorkload,
        Strangers,
    },
};
use crate::{
    bpf::{Device, Options, WhyTcp},
    config::Pins,
    netns::Netns,
    socket_options::Permits,
    workload::Workload,
};

/// One agent instance.
#[derive(Clone, Debug)]
pub(crate) struct Steering {
    loader: Loader,
    are_pins_fresh: bool,
    has_new_maps: bool,
    permits: Permits,
    acceleration: Result<(), WhyTcp>,
}

/// The programs of one workload. They stay attached when this is dropped.
#[derive(Debug)]
pub(crate) struct WorkloadPrograms {
    loader: Loader,
    handle: u64,
}

impl Steering {
    /// Opens an instance, which attaches nothing.
    pub(crate) fn open(loader: Loader, pins: &Pins, options: Options) -> Result<Self, LoaderError> {
        let bpffs = pins.bpffs.to_str();
        let bpffs = bpffs.ok_or_else(|| LoaderError::Failed {
            what: format!(
                "{} is no UTF-8: give another directory with --bpffs",
                pins.bpffs.display()
            ),
            errno: Some(Errno::EILSEQ),
        })?;
        let opened = loader.call(Open {
            bpffs: bpffs.to_owned(),
            instance: pins.instance.as_str().to_owned(),
            options,
        })?;
        let permits = Permits::new(opened.token());
        let Opened {
            are_fresh: are_pins_fresh,
            has_new_maps,
            token: _,
            acceleration,
        } = opened;
        Ok(Self {
            loader,
            are_pins_fresh,
            has_new_maps,
            permits,
            acceleration,
        })
    }

    /// The loader.
    pub(crate) fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Whether nothing of the instance was pinned before: then a failed start may remove it all.
    pub(crate) fn are_pins_fresh(&self) -> bool {
        self.are_pins_fresh
    }

    /// Whether there were no maps of this version before: then the guard has no mark of any socket.
    pub(crate) fn has_new_maps(&self) -> bool {
        self.has_new_maps
    }

    /// The right to let sockets past the guard.
    pub(crate) fn permits(&self) -> Permits {
        self.permits
    }

    /// A way for one worker to have local hops accelerated, or why it can't.
    pub(crate) fn local_hops(&self) -> Result<Result<LocalHops, WhyTcp>, LoaderError> {
        match self.acceleration {
            Ok(()) => LocalHops::open(&self.loader).map(Ok),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Removes every pin of the instance.
    pub(crate) fn detach(&self) -> Result<(), LoaderError> {
        self.loader.call(Detach {}).map(drop)
    }

    pub(crate) fn attach_agent(&self, cgroup: &Path) -> Result<(), LoaderError> {
        let cgroup = open(cgroup)?;
        let attached = self.loader.call_with(AttachAgent {}, &[cgroup.as_fd()]);
        attached.map(drop)
    }

    pub(crate) fn attach_workload(
        &self,
        workload: &Workload,
    ) -> Result<WorkloadPrograms, LoaderError> {
        let cgroup = open(&workload.cgroup)?;
        let request = AttachWorkload {
            owner: workload.owner(),
            id: workload.id.0,
            tenancy: workload.tenancy,
        };
        let beside = [cgroup.as_fd(), workload.netns.as_fd()];
        let (handle, _) = self.loader.call_with(request, &beside)?;
        Ok(WorkloadPrograms {
            loader: self.loader.clone(),
            handle,
        })
    }

    pub(crate) fn is_attached(&self, owner: String) -> Result<bool, LoaderError> {
        self.loader.call(IsAttached { owner })
    }

    pub(crate) fn release_workload(&self, owner: String) -> Result<(), LoaderError> {
        self.loader.call(ReleaseWorkload { owner })
    }

    pub(crate) fn strangers(&self, owners: Vec<String>) -> Result<Vec<String>, LoaderError> {
        self.loader.call(Strangers { owners })
    }

    /// The cgroups whose sockets are agents': that of this one, and those of agents before it as long as
    /// sockets of theirs are in use.
    pub(crate) fn agent_cgroups(&self) -> Result<HashSet<u64>, LoaderError> {
        self.loader.call(AgentCgroups {})
    }

    /// Takes the programs for agents' sockets away from other cgroups than these, in which an agent has
    /// run before.
    pub(crate) fn forget_agents_but(&self, cgroups: HashSet<u64>) -> Result<(), LoaderError> {
        self.loader.call(ForgetAgentsBut { cgroups })
    }

    /// Begins to overhear what the workload's programs are answered.
    pub(crate) fn overhear(&self, workload: &Workload) -> Result<DnsAnswers, LoaderError> {
        let cgroup = open(&workload.cgroup)?;
        let request = Overhear {
            id: workload.id.0,
            tenancy: workload.tenancy,
        };
        let ((), gives) = self.loader.call_with(request, &[cgroup.as_fd()])?;
        DnsAnswers::new(gives)
    }

    /// Where the kernel side puts refusals one by one.
    pub(crate) fn refusals(&self) -> Result<Refusals, LoaderError> {
        Refusals::open(&self.loader)
    }

    /// Counters and tables, as they are now.
    pub(crate) fn read(&self) -> Result<Readings, LoaderError> {
        self.loader.call(Read {})
    }
}

impl WorkloadPrograms {
    /// See [`crate::bpf::WorkloadPrograms::guard_devices`]; `netns` is where they are.
    pub(crate) fn guard_devices(
        &self,
        netns: &Netns,
        devices: &[Device],
    ) -> Result<(), LoaderError> {
        let request = GuardDevices {
            programs: self.handle,
            devices: devices.to_vec(),
        };
        self.loader.call_with(request, &[netns.as_fd()]).map(drop)
    }
}

impl Drop for WorkloadPrograms {
    fn drop(&mut self) {
        let programs = self.handle;
        // A loader that is gone has nothing of them.
        let _ = self.loader.call(DropPrograms { programs });
    }
}

fn open(cgroup: &Path) -> Result<File, LoaderError> {
    File::open(cgroup).map_err(|source| LoaderError::Cgroup {
        path: cgroup.to_owned(),
        source,
    })
}
