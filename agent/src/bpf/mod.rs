//! The kernel side: loads the eBPF object, attaches and pins its programs, opens its maps.
//!
//! It knows workloads by their cgroup and namespace only; rules and peers are the agent's business.
//! All use of aya is here, and all but `--detach` in the process of the loader.

mod abi;
mod attach;
mod clsact;
mod device;
mod dns_answers;
mod layout;
mod local_hops;
mod maps;
mod object;
mod pins;
mod ring;
mod rtnetlink;
mod sys;
mod token;

use std::{
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfError, maps::MapError};
use ebpf_abi::{Token, WorkloadId};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::{info, warn};

use attach::{Target, attach};
use device::DeviceGuard;
use object::{Object, Purpose};

pub(crate) use abi::version;
pub use attach::AttachError;
pub use clsact::ClsactError;
pub use device::{Device, DeviceHook};
pub(crate) use dns_answers::{Overheard, overhear};
pub use layout::LayoutError;
pub(crate) use local_hops::{Acceleration, LocalHops};
pub use local_hops::{LocalHopError, WhyTcp};
pub use maps::{AddressPrefix, Table, monotonic_ns};
pub use maps::{ControlMaps, KernelReports, TableName};
pub use pins::Pins;
pub use ring::CaughtUp;
pub(crate) use ring::Ring;
pub use sys::netns_cookie;
pub(crate) use sys::{option, set_option};

/// The eBPF object, as `cargo xtask ebpf` builds and strips it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("sealwire.bpf.o");

/// Attaches programs for one agent instance, over maps that all its workloads share.
#[derive(Debug)]
pub struct Steering {
    object: Object,
    device_hook: DeviceHook,
    acceleration: Result<Acceleration, WhyTcp>,
    token: Token,
}

/// What an operator may set of the kernel side.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    /// Whether the programs log each decision (aya-log): for debugging, at a price.
    pub debug: bool,
    /// How many flows may be on their way to a listener at once; `None` for the object's own size.
    pub flow_table_entries: Option<u32>,
    /// Whether messages may pass the loopback's TCP by, where the kernel can do it.
    pub local_acceleration: bool,
}

/// The programs of one workload, attached. They stay attached when this is dropped.
#[derive(Debug)]
pub struct WorkloadPrograms {
    links: PathBuf,
    /// `None` where the devices are others' as well.
    guard: Option<DeviceGuard>,
}

/// Whose programs are in a workload's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tenancy {
    /// The workload's alone: every port and device of it is the workload's.
    Sole,
    /// Others' as well: the workload is what its own sockets are.
    Shared,
}

/// What went wrong between the agent and the kernel's BPF.
#[derive(Debug, Error)]
pub enum BpfError {
    /// The pin directory can't be used.
    #[error("can't use {path} for pins: {source}; give a directory with --bpffs and run as root")]
    Bpffs {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel offers no type information.
    #[error("the kernel has no BTF ({BTF}): it needs CONFIG_DEBUG_INFO_BTF")]
    NoBtf,
    /// The object could not be loaded.
    #[error("loading the eBPF object")]
    Load(#[source] Box<EbpfError>),
    /// A program could not be loaded or attached.
    #[error("attaching {program}; Sealwire needs Linux 6.1 or newer with CONFIG_CGROUP_BPF")]
    Attach {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: AttachError,
    },
    /// What leaves by a device is not looked at.
    #[error("device {device} is not guarded")]
    Unguarded {
        /// The device's name.
        device: String,
        /// Why.
        #[source]
        source: Box<Self>,
    },
    /// The guard can't be a filter of a device.
    #[error(transparent)]
    Filter(#[from] ClsactError),
    /// Something of an earlier agent could not be removed from a device.
    #[error("removing the filters of workload {owner} from its devices")]
    Release {
        /// The workload, as its link directory is named.
        owner: String,
        /// Why.
        #[source]
        source: ClsactError,
    },
    /// The object lacks a program: it is not the one this agent was built with.
    #[error("the eBPF object has no program {0}")]
    Missing(&'static str),
    /// A pin could not be made, read or removed.
    #[error("handling the pin {path}: {source}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A map could not be opened or written.
    #[error("map {name}")]
    Map {
        /// The map.
        name: &'static str,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// There is no descriptor left for a ring buffer.
    #[error("keeping a ring buffer open: {0}")]
    Ring(#[source] io::Error),
    /// The system has no random bytes.
    #[error("the system gives no random bytes for the token of the instance")]
    NoRandomness,
    /// A cgroup can't be asked which it is.
    #[error("asking a cgroup for its number: {0}")]
    Cgroup(#[source] io::Error),
}

impl Steering {
    /// Prepares the kernel side over the instance's pins. Attaches nothing.
    ///
    /// # Errors
    /// [`BpfError::NoBtf`] and [`BpfError::Load`] on a kernel that can't run the object.
    pub fn new(pins: Pins, options: Options) -> Result<Self, BpfError> {
        if !Path::new(BTF).exists() {
            return Err(BpfError::NoBtf);
        }
        let object = Object::new(pins, options)?;
        let device_hook = DeviceHook::of_kernel()?;
        info!(hook = %device_hook, "devices are guarded");
        let acceleration = if options.local_acceleration {
            prepare_acceleration(&object).map_err(|error| {
                let error = crate::causes::with_causes(&error);
                warn!(%error, "this kernel can't do what `local_acceleration` asks for");
                WhyTcp::Kernel
            })
        } else {
            Err(WhyTcp::Off)
        };
        if acceleration.is_err() {
            local_hops::remove(object.pins())?;
        }
        // Creates and pins the maps, so that they can be filled before anything is attached.
        let layout = acceleration
            .as_ref()
            .map(|acceleration| acceleration.layout);
        object.load(WorkloadId(0), Tenancy::Sole, layout.ok(), Purpose::Steering)?;
        Ok(Self {
            token: token::of_instance(object.pins())?,
            object,
            device_hook,
            acceleration,
        })
    }

    /// Whether connections may be accelerated.
    ///
    /// # Errors
    /// Why none is.
    pub(crate) fn acceleration(&self) -> Result<&Acceleration, WhyTcp> {
        self.acceleration.as_ref().map_err(|why| *why)
    }

    /// What the instance's agents show with what they ask of the hooks.
    pub fn token(&self) -> Token {
        self.token
    }

    /// The instance's pins.
    pub fn pins(&self) -> &Pins {
        self.object.pins()
    }

    /// Attaches the programs that serve the agent's own sockets to the agent's cgroup.
    pub fn attach_agent(&self, cgroup: BorrowedFd<'_>) -> Result<(), BpfError> {
        let mut object = self.load(WorkloadId(0), Tenancy::Sole)?;
        [
            ("sockops_agent", Target::Cgroup(cgroup)),
            ("setsockopt_agent", Target::CgroupSetOption(cgroup)),
            ("getsockopt_agent", Target::CgroupGetOption(cgroup)),
        ]
        .into_iter()
        .try_for_each(|(program, target)| {
            let pin = self.pins().agent(program, cgroup)?;
            attach(&mut object, program, &pin, target)
        })
    }

    /// Attaches, or replaces atomically, the programs of one workload.
    ///
    /// `netns` is the workload's network namespace; the device guards come with
    /// [`WorkloadPrograms::guard_devices`]. Ingress comes last: the rest must stand by then.
    pub fn attach_workload(
        &self,
        owner: &str,
        id: WorkloadId,
        cgroup: BorrowedFd<'_>,
        netns: BorrowedFd<'_>,
        tenancy: Tenancy,
    ) -> Result<WorkloadPrograms, BpfError> {
        let mut object = self.load(id, tenancy)?;
        // All that is kept of the object, which is large and has a descriptor for each map and program.
        let guard = match tenancy {
            Tenancy::Sole => Some(self.device_hook.load(&mut object)?),
            Tenancy::Shared => None,
        };
        let links = self.pins().links(owner)?;
        let mut place = |name, target| attach(&mut object, name, &links.join(name), target);
        if tenancy == Tenancy::Shared {
            place("guard_ingress", Target::CgroupIngress(cgroup))?;
        }
        for program in ON_CGROUP {
            place(program, Target::Cgroup(cgroup))?;
        }
        place("ingress", Target::Netns(netns))?;
        Ok(WorkloadPrograms { links, guard })
    }

    /// Whether programs of this workload are attached.
    pub fn is_attached(&self, owner: &str) -> bool {
        self.pins().has_links(owner)
    }

    /// Takes the programs of one workload away: it is not steered, guarded or refused any more.
    pub fn release_workload(&self, owner: &str) -> Result<(), BpfError> {
        self.pins().release(owner)
    }

    /// Names the workloads that were served before and are not among `owners`: their pins stay, so
    /// their connections stay refused. Removes what can't matter any more.
    pub fn strangers(&self, owners: &[String]) -> Vec<String> {
        let mut known = owners.to_vec();
        known.push(AGENT.to_owned());
        let strangers = self.pins().strangers(&known).unwrap_or_default();
        if strangers.is_empty() {
            let _ = self.pins().remove_old_maps();
        }
        strangers
            .iter()
            .filter_map(|path| path.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    fn load(&self, workload: WorkloadId, tenancy: Tenancy) -> Result<Ebpf, BpfError> {
        let layout = self.acceleration().map(|acceleration| acceleration.layout);
        self.object
            .load(workload, tenancy, layout.ok(), Purpose::Steering)
    }

    fn load_to_overhear(&self, workload: WorkloadId, tenancy: Tenancy) -> Result<Ebpf, BpfError> {
        let layout = self.acceleration().map(|acceleration| acceleration.layout);
        self.object
            .load(workload, tenancy, layout.ok(), Purpose::Overhearing)
    }
}

fn prepare_acceleration(object: &Object) -> Result<Acceleration, LocalHopError> {
    let layout = layout::of_kernel()?;
    let (workload, tenancy) = (WorkloadId(0), Tenancy::Sole);
    let mut object = object.load(workload, tenancy, Some(layout), Purpose::Steering)?;
    Acceleration::prepare(&mut object, layout)
}

impl WorkloadPrograms {
    /// Guards these devices of the workload's namespace, where they are not guarded already and the
    /// namespace is the workload's alone; to be called on a thread in it.
    ///
    /// # Errors
    /// [`BpfError::Unguarded`] where a device can't be guarded; one that is gone is passed over.
    pub fn guard_devices(&mut self, devices: &[Device]) -> Result<(), BpfError> {
        // All are tried, so that one failure leaves no other device open.
        devices
            .iter()
            .map(|device| self.guard_device(device))
            .fold(Ok(()), Result::and)
    }

    fn guard_device(&mut self, device: &Device) -> Result<(), BpfError> {
        let Some(guard) = &mut self.guard else {
            return Ok(());
        };
        match guard.guard(&self.links, device) {
            Err(_) if nix::net::if_::if_nametoindex(device.name.as_str()).is_err() => Ok(()),
            Err(error) => Err(BpfError::Unguarded {
                device: device.name.clone(),
                source: Box::new(error),
            }),
            Ok(()) => Ok(()),
        }
    }
}

/// The programs on a workload's cgroup, in the order in which they are attached: what guards comes
/// first, what steers comes when all that it needs is there.
const ON_CGROUP: [&str; 8] = [
    "guard_cgroup",
    "sockops_workload",
    "getpeername4",
    "getpeername6",
    "getsockname4",
    "getsockname6",
    "connect4",
    "connect6",
];

/// The kernel's type information.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The directory of the agent's own links: a workload's has numbers after its name.
pub(crate) const AGENT: &str = "agent";
