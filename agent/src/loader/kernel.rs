//! What the loader does for its agent.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    thread,
};

use ebpf_abi::{HopId, WorkloadId};
use serde_json::Value;
use thiserror::Error;
use tracing::warn;

use super::{
    channel::Channel,
    protocol::{
        Accelerate, Failure, Message, Open, Opened, Outcome, Readings, Request, is_one_name,
        is_owner,
    },
};
use crate::{
    bpf::{
        BpfError, ControlMaps, KernelReports, LocalHops, Overheard, Pins, Steering,
        WorkloadPrograms, overhear,
    },
    causes::{errno, with_causes},
    netns,
};

/// The kernel side of one instance, once it is opened.
#[derive(Debug, Default)]
pub(super) struct Kernel(Option<Instance>);

#[derive(Debug)]
struct Instance {
    bpffs: String,
    name: String,
    steering: Steering,
    maps: ControlMaps,
    reports: KernelReports,
    /// What devices are guarded by, by handle.
    programs: HashMap<u64, WorkloadPrograms>,
    handles: u64,
}

/// Why the loader did not do something.
#[derive(Debug, Error)]
enum Refused {
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error("the agent asks for what it may not ask for: {0}")]
    Request(&'static str),
    #[error("entering a network namespace")]
    Netns(#[source] io::Error),
    #[error("starting a thread")]
    Thread(#[source] io::Error),
    #[error("writing the answer")]
    Text(#[from] serde_json::Error),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self {
            what: with_causes(&refused),
            errno: errno(&refused),
        }
    }
}

impl Kernel {
    /// Does what is asked for. What comes back besides the outcome goes with it.
    pub(super) fn answer(
        &mut self,
        message: Message,
        descriptors: Vec<OwnedFd>,
    ) -> (Outcome<Value>, Vec<OwnedFd>) {
        let mut beside = Vec::new();
        let done = self.serve(message, Beside(descriptors.into_iter()), &mut beside);
        (done.map_err(Failure::from), beside)
    }

    fn serve(
        &mut self,
        message: Message,
        mut given: Beside,
        answers: &mut Vec<OwnedFd>,
    ) -> Result<Value, Refused> {
        if let Message::Open(open) = message {
            return reply(open, |open| self.open(open));
        }
        if let Message::Detach(request) = message {
            return reply(request, |_| self.detach());
        }
        let instance = self.0.as_mut();
        let instance = instance.ok_or(Refused::Request("something before the instance is open"))?;
        match message {
            Message::Open(_) | Message::Detach(_) => Err(Refused::Request("that twice")),
            Message::AttachAgent(it) => reply(it, |_| {
                Ok(instance.steering.attach_agent(given.take()?.as_fd())?)
            }),
            Message::AttachWorkload(it) => reply(it, |it| {
                let (cgroup, netns) = (given.take()?, given.take()?);
                let programs = instance.steering.attach_workload(
                    owner(&it.owner)?,
                    WorkloadId(it.id),
                    cgroup.as_fd(),
                    netns.as_fd(),
                    it.tenancy,
                )?;
                Ok(instance.keep(programs))
            }),
            Message::GuardDevices(it) => reply(it, |it| {
                let netns = given.take()?;
                let programs = instance.programs.get_mut(&it.programs);
                let programs = programs.ok_or(Refused::Request("programs that are not there"))?;
                let guard = || Ok(programs.guard_devices(&it.devices));
                Ok(netns::run_in(&netns, guard).map_err(Refused::Netns)??)
            }),
            Message::DropPrograms(it) => reply(it, |it| {
                instance.programs.remove(&it.programs);
                Ok(())
            }),
            Message::IsAttached(it) => reply(it, |it| {
                Ok(instance.steering.is_attached(owner(&it.owner)?))
            }),
            Message::ReleaseWorkload(it) => reply(it, |it| {
                Ok(instance.steering.release_workload(owner(&it.owner)?)?)
            }),
            Message::Strangers(it) => reply(it, |it| Ok(instance.steering.strangers(&it.owners))),
            Message::AgentCgroups(it) => {
                reply(it, |_| Ok(instance.steering.pins().agent_cgroups()?))
            }
            Message::ForgetAgentsBut(it) => reply(it, |it| {
                Ok(instance.steering.pins().forget_agents_but(&it.cgroups)?)
            }),
            Message::Overhear(it) => reply(it, |it| {
                let cgroup = given.take()?;
                let id = WorkloadId(it.id);
                let Overheard { ring, links } =
                    overhear(&instance.steering, id, cgroup.as_fd(), it.tenancy)?;
                answers.push(ring);
                answers.extend(links);
                Ok(())
            }),
            Message::ServeLocalHops(it) => {
                reply(it, |_| instance.serve_local_hops(given.take()?.into()))
            }
            Message::Accelerate(_) => Err(Refused::Request("a local hop, on another channel")),
            Message::ForgetAllBut(it) => reply(it, |it| {
                let served: Vec<_> = it.served.into_iter().map(WorkloadId).collect();
                Ok(instance.maps.forget_all_but(&served)?)
            }),
            Message::ForgetClients(it) => reply(it, |_| {
                instance.maps.forget_clients();
                Ok(())
            }),
            Message::Forget(it) => reply(it, |it| Ok(instance.maps.forget(WorkloadId(it.id))?)),
            Message::ForgetReleased(it) => reply(it, |it| {
                instance.maps.forget_released(WorkloadId(it.id));
                Ok(())
            }),
            Message::SetUdpDenied(it) => reply(it, |it| {
                let id = WorkloadId(it.id);
                Ok(instance.maps.set_udp_denied(id, it.is_denied)?)
            }),
            Message::SetWorkload(it) => reply(it, |it| {
                let id = WorkloadId(it.id);
                Ok(instance.maps.set_workload(id, it.state)?)
            }),
            Message::SetListener(it) => reply(it, |it| {
                let (id, listener) = (WorkloadId(it.id), given.take()?);
                let maps = &mut instance.maps;
                Ok(maps.set_listener(id, it.worker, it.ipv6, listener.as_fd())?)
            }),
            Message::SetIngressPorts(it) => reply(it, |it| {
                let id = WorkloadId(it.id);
                let maps = &mut instance.maps;
                Ok(maps.set_ingress_ports(id, it.default_is_plaintext, &it.ports)?)
            }),
            Message::SetAddresses(it) => reply(it, |it| {
                let id = WorkloadId(it.id);
                Ok(instance.maps.set_addresses(id, &it.addresses)?)
            }),
            Message::Refusals(it) => reply(it, |_| {
                let (ring, bytes) = KernelReports::refusals(instance.steering.pins())?;
                answers.push(ring);
                Ok(bytes)
            }),
            Message::Read(it) => reply(it, |_| {
                Ok(Readings {
                    counters: instance.reports.counters(),
                    tables: instance.reports.tables(),
                })
            }),
        }
    }

    fn open(&mut self, open: Open) -> Result<Opened, Refused> {
        let Open {
            bpffs,
            instance: name,
            options,
        } = open;
        if self.0.is_some() || !is_one_name(&name) {
            return Err(Refused::Request("another instance"));
        }
        let pins = Pins::open(Path::new(&bpffs), &name)?;
        let (are_fresh, has_new_maps) = (pins.are_fresh(), pins.has_new_maps());
        let opened = Steering::new(pins, options).and_then(|steering| {
            Ok(Instance {
                maps: ControlMaps::open(steering.pins())?,
                reports: KernelReports::open(steering.pins())?,
                steering,
                bpffs: bpffs.clone(),
                name: name.clone(),
                programs: HashMap::new(),
                handles: 0,
            })
        });
        let instance = opened.inspect_err(|_| {
            if are_fresh {
                let _ = Pins::detach(Path::new(&bpffs), &name);
            }
        })?;
        let opened = Opened {
            are_fresh,
            has_new_maps,
            token: instance.steering.token().0,
            acceleration: instance.steering.acceleration().map(|_| ()),
        };
        self.0 = Some(instance);
        Ok(opened)
    }

    fn detach(&mut self) -> Result<usize, Refused> {
        let instance = self.0.take();
        let instance = instance.ok_or(Refused::Request("to detach what is not open"))?;
        Ok(Pins::detach(Path::new(&instance.bpffs), &instance.name)?)
    }
}

impl Instance {
    fn keep(&mut self, programs: WorkloadPrograms) -> u64 {
        self.handles += 1;
        self.programs.insert(self.handles, programs);
        self.handles
    }

    /// Takes what one worker asks for on a thread of its own, until its end of the channel is closed.
    fn serve_local_hops(&self, channel: Channel) -> Result<(), Refused> {
        let acceleration = self.steering.acceleration();
        let acceleration =
            acceleration.map_err(|_| Refused::Request("local hops, which are not accelerated"))?;
        let hops = LocalHops::open(self.steering.pins(), acceleration)?;
        thread::Builder::new()
            .name("local-hops".into())
            .spawn(move || {
                if let Err(error) = accelerate_all(&channel, hops) {
                    warn!(%error, "no more local hops of a worker are accelerated");
                }
            })
            .map_err(Refused::Thread)?;
        Ok(())
    }
}

fn accelerate_all(channel: &Channel, mut hops: LocalHops) -> io::Result<()> {
    while let Some((message, descriptors)) = channel.receive()? {
        let mut given = Beside(descriptors.into_iter());
        let done = match message {
            Message::Accelerate(it) => reply(it, |Accelerate { cookie, opened }| {
                Ok(hops.accelerate(&given.take()?, HopId { cookie, opened }))
            }),
            _ => Err(Refused::Request("something else than a local hop")),
        };
        channel.send(&done.map_err(Failure::from), &[])?;
    }
    Ok(())
}

/// What came beside a message.
struct Beside(std::vec::IntoIter<OwnedFd>);

impl Beside {
    fn take(&mut self) -> Result<OwnedFd, Refused> {
        self.0
            .next()
            .ok_or(Refused::Request("a descriptor is missing"))
    }
}

/// Answers one request with what it wants for an answer.
fn reply<R: Request>(
    request: R,
    work: impl FnOnce(R) -> Result<R::Answer, Refused>,
) -> Result<Value, Refused> {
    Ok(serde_json::to_value(work(request)?)?)
}

fn owner(name: &str) -> Result<&str, Refused> {
    is_owner(name)
        .then_some(name)
        .ok_or(Refused::Request("programs of an owner that is none"))
}
