//! The kernel side: loads the eBPF object, attaches and pins its programs, opens its maps.
//!
//! It knows workloads by their cgroup and namespace only; rules and peers are the agent's business.
//! All use of aya is here.

mod maps;
mod pins;
mod sys;

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, LinkOrder, Program,
        ProgramError, SchedClassifier, SkLookup, SockOps, TcAttachType,
        links::{FdLink, LinkError},
        tc::TcAttachOptions,
    },
};
use aya_log::EbpfLogger;
use ebpf_abi::WorkloadId;
use nix::errno::Errno;
use thiserror::Error;

pub use maps::{
    AddressPrefix, ConnectionMaps, ControlMaps, Heartbeat, KernelReports, monotonic_ns,
};
pub use pins::Pins;
pub use sys::netns_cookie;

/// The eBPF object, as `cargo xtask ebpf` builds and strips it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("sealwire.bpf.o");

/// Loads programs for one agent instance, over maps that all its workloads share.
#[derive(Debug)]
pub struct Steering {
    pins: Pins,
    btf: Btf,
    options: Options,
}

/// What an operator may set of the kernel side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether the programs log each decision (aya-log): for debugging, at a price.
    pub debug: bool,
    /// How many flows may be on their way to a listener at once; `None` for the object's own size.
    pub flow_table_entries: Option<u32>,
}

/// The programs of one workload, attached. They stay attached when this is dropped.
#[derive(Debug)]
pub struct WorkloadPrograms {
    object: Ebpf,
    links: PathBuf,
}

/// A network device, as the namespace it is in names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name, at the time it was listed.
    pub name: String,
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
    #[error("the kernel has no BTF (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF")]
    NoBtf(#[source] aya::BtfError),
    /// The object could not be loaded.
    #[error("loading the eBPF object")]
    Load(#[source] Box<EbpfError>),
    /// The verifier or the attach call refused a program.
    #[error("attaching {program}; Sealwire needs Linux 6.6 or newer with CONFIG_CGROUP_BPF")]
    Program {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// The kernel attached a program, but not by a link that can be pinned.
    #[error("{program} can't be attached so that it outlives the agent; Sealwire needs Linux 6.6")]
    Link {
        /// The program.
        program: &'static str,
        /// What aya said.
        #[source]
        source: LinkError,
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
    /// A cgroup or namespace can't be opened.
    #[error("opening {path}: {source}")]
    Target {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Steering {
    /// Prepares the kernel side over the instance's pins. Attaches nothing.
    ///
    /// # Errors
    /// [`BpfError::NoBtf`] and [`BpfError::Load`] on a kernel that can't run the object.
    pub fn new(pins: Pins, options: Options) -> Result<Self, BpfError> {
        let btf = Btf::from_sys_fs().map_err(BpfError::NoBtf)?;
        let steering = Self { pins, btf, options };
        // Creates and pins the maps, so that they can be filled before anything is attached.
        steering.load(WorkloadId(0))?;
        Ok(steering)
    }

    /// The instance's pins.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Attaches the program that serves the agent's own sockets to the agent's cgroup.
    pub fn attach_agent(&self, cgroup: &Path) -> Result<(), BpfError> {
        let mut object = self.load(WorkloadId(0))?;
        let links = self.pins.links(AGENT)?;
        let cgroup = open(cgroup)?;
        // The agent may have been started in another cgroup than last time, and a link can't
        // move. Without it new connections are refused, so a moment of absence is safe.
        let pin = links.join("sockops_agent");
        if pin.exists() {
            fs::remove_file(&pin).map_err(|source| BpfError::Pin {
                path: pin.clone(),
                source,
            })?;
        }
        attach_sock_ops(&mut object, &links, "sockops_agent", cgroup.as_fd())
    }

    /// Attaches, or replaces atomically, the programs of one workload.
    ///
    /// `netns` is the workload's network namespace; the device guards come with
    /// [`WorkloadPrograms::guard_devices`]. Ingress comes last: the rest must stand by then.
    pub fn attach_workload(
        &self,
        owner: &str,
        id: WorkloadId,
        cgroup: &Path,
        netns: BorrowedFd<'_>,
    ) -> Result<WorkloadPrograms, BpfError> {
        let mut object = self.load(id)?;
        let links = self.pins.links(owner)?;
        let cgroup = open(cgroup)?;
        let cgroup = cgroup.as_fd();
        attach_cgroup_skb(&mut object, &links, "guard_cgroup", cgroup)?;
        attach_sock_ops(&mut object, &links, "sockops_workload", cgroup)?;
        for program in [
            "getpeername4",
            "getpeername6",
            "getsockname4",
            "getsockname6",
            "connect4",
            "connect6",
        ] {
            attach_sock_addr(&mut object, &links, program, cgroup)?;
        }
        attach_sk_lookup(&mut object, &links, "ingress", netns)?;
        Ok(WorkloadPrograms { object, links })
    }

    /// Names the workloads that were served before and are not among `owners`: their pins stay, so
    /// their connections stay refused. Removes what can't matter any more.
    pub fn strangers(&self, owners: &[String]) -> Vec<String> {
        let mut known = owners.to_vec();
        known.push(AGENT.to_owned());
        let strangers = self.pins.strangers(&known).unwrap_or_default();
        if strangers.is_empty() {
            let _ = self.pins.remove_old_maps();
        }
        strangers
            .iter()
            .filter_map(|path| path.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    fn load(&self, workload: WorkloadId) -> Result<Ebpf, BpfError> {
        let level = if self.options.debug {
            LOG_ALL
        } else {
            LOG_NONE
        };
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&self.btf))
            .override_global("WORKLOAD", &workload.0, true)
            .override_global(aya_log::LEVEL, &level, true);
        for name in MAPS {
            loader.map_pin_path(name, self.pins.map(name));
        }
        if let Some(entries) = self.options.flow_table_entries {
            loader.map_max_entries("FLOWS", entries);
        }
        let mut object = loader
            .load(OBJECT)
            .map_err(|error| BpfError::Load(Box::new(error)))?;
        if self.options.debug {
            // Each instance has a log of its own; the logger's task ends with the runtime.
            match EbpfLogger::init(&mut object) {
                Ok(logger) => forward(logger),
                Err(error) => tracing::warn!(%error, "the eBPF programs' log can't be read"),
            }
        }
        Ok(object)
    }
}

impl WorkloadPrograms {
    /// Guards these devices of the workload's namespace; to be called on a thread in it.
    ///
    /// # Errors
    /// [`BpfError::Program`] where a device can't be guarded; one that is gone is passed over.
    pub fn guard_devices(&mut self, devices: &[Device]) -> Result<(), BpfError> {
        devices
            .iter()
            .try_for_each(|device| self.guard_device(device))
    }

    fn guard_device(&mut self, device: &Device) -> Result<(), BpfError> {
        const NAME: &str = "guard_device";
        let pin = self.links.join(format!("{NAME}-{}", device.index));
        let program: &mut SchedClassifier = typed(&mut self.object, NAME)?;
        if adopt(&pin, program.fd().map_err(refused(NAME))?.as_fd())? {
            return Ok(());
        }
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = match program.attach_with_options(&device.name, TcAttachType::Egress, first) {
            Ok(id) => id,
            Err(_) if nix::net::if_::if_nametoindex(device.name.as_str()).is_err() => return Ok(()),
            Err(error) => return Err(refused(NAME)(error)),
        };
        let link = program.take_link(id).map_err(refused(NAME))?;
        pin_link(link.try_into().map_err(unlinkable(NAME))?, pin)
    }
}

/// The directory of the agent's own links: a workload's has numbers after its name.
const AGENT: &str = "agent";

/// Every map that the workloads of an instance share.
const MAPS: [&str; 14] = [
    "ACCEPTED",
    "ADDRESSES",
    "CLIENTS",
    "COUNTERS",
    "FLOWS",
    "HEARTBEAT",
    "INGRESS_PORTS",
    "LISTENERS",
    "ORIGINALS",
    "PERMITTED",
    "REFUSALS",
    "REFUSED",
    "TRUE_PEERS",
    "WORKLOADS",
];

/// A link always lets others attach beside it, and the kernel wants no flag that says so.
const LINK_MODE: CgroupAttachMode = CgroupAttachMode::Single;

const LOG_NONE: u8 = 0;
const LOG_ALL: u8 = 5;

fn attach_sock_addr(
    object: &mut Ebpf,
    links: &Path,
    name: &'static str,
    cgroup: BorrowedFd<'_>,
) -> Result<(), BpfError> {
    let program: &mut CgroupSockAddr = typed(object, name)?;
    attach(program, links, name, |program| {
        let id = program.attach(cgroup, LINK_MODE).map_err(refused(name))?;
        program
            .take_link(id)
            .map_err(refused(name))?
            .try_into()
            .map_err(unlinkable(name))
    })
}

fn attach_cgroup_skb(
    object: &mut Ebpf,
    links: &Path,
    name: &'static str,
    cgroup: BorrowedFd<'_>,
) -> Result<(), BpfError> {
    let program: &mut CgroupSkb = typed(object, name)?;
    attach(program, links, name, |program| {
        let egress = CgroupSkbAttachType::Egress;
        let id = program
            .attach(cgroup, egress, LINK_MODE)
            .map_err(refused(name))?;
        program
            .take_link(id)
            .map_err(refused(name))?
            .try_into()
            .map_err(unlinkable(name))
    })
}

fn attach_sock_ops(
    object: &mut Ebpf,
    links: &Path,
    name: &'static str,
    cgroup: BorrowedFd<'_>,
) -> Result<(), BpfError> {
    let program: &mut SockOps = typed(object, name)?;
    attach(program, links, name, |program| {
        let id = program.attach(cgroup, LINK_MODE).map_err(refused(name))?;
        program
            .take_link(id)
            .map_err(refused(name))?
            .try_into()
            .map_err(unlinkable(name))
    })
}

fn attach_sk_lookup(
    object: &mut Ebpf,
    links: &Path,
    name: &'static str,
    netns: BorrowedFd<'_>,
) -> Result<(), BpfError> {
    let program: &mut SkLookup = typed(object, name)?;
    attach(program, links, name, |program| {
        let id = program.attach(netns).map_err(refused(name))?;
        Ok(program.take_link(id).map_err(refused(name))?.into())
    })
}

/// Takes over the link pinned for this program, or makes one with `create` and pins it.
fn attach<P: AttachableProgram>(
    program: &mut P,
    links: &Path,
    name: &'static str,
    create: impl FnOnce(&mut P) -> Result<FdLink, BpfError>,
) -> Result<(), BpfError> {
    let pin = links.join(name);
    if adopt(&pin, program.descriptor().map_err(refused(name))?)? {
        return Ok(());
    }
    pin_link(create(program)?, pin)
}

/// Puts `program` behind the link pinned at `pin`; false where there is none that still holds.
fn adopt(pin: &Path, program: BorrowedFd<'_>) -> Result<bool, BpfError> {
    let failed = |source| BpfError::Pin {
        path: pin.to_owned(),
        source,
    };
    let link: OwnedFd = match sys::object_get(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    match sys::link_update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        // What it was attached to is gone, and with it everything it could have guarded.
        Err(error) if error.raw_os_error() == Some(Errno::ENOLINK as i32) => {
            fs::remove_file(pin).map_err(failed)?;
            Ok(false)
        }
        Err(error) => Err(failed(error)),
    }
}

fn pin_link(link: FdLink, pin: PathBuf) -> Result<(), BpfError> {
    match link.pin(&pin) {
        Ok(_) => Ok(()),
        Err(error) => Err(BpfError::Pin {
            path: pin,
            source: io::Error::other(error),
        }),
    }
}

/// What the attach functions need of a loaded program beyond its own type.
trait AttachableProgram {
    fn descriptor(&self) -> Result<BorrowedFd<'_>, ProgramError>;
}

macro_rules! attachable {
    ($($program:ty),+) => {$(
        impl AttachableProgram for $program {
            fn descriptor(&self) -> Result<BorrowedFd<'_>, ProgramError> {
                Ok(self.fd()?.as_fd())
            }
        }
    )+};
}
attachable!(CgroupSkb, CgroupSockAddr, SkLookup, SockOps);

/// The program `name`, loaded.
fn typed<'a, P>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = object.program_mut(name).ok_or(BpfError::Missing(name))?;
    load_program(program).map_err(refused(name))?;
    program.try_into().map_err(refused(name))
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    let loaded = match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => Ok(()),
    };
    match loaded {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    }
}

fn refused(program: &'static str) -> impl Fn(ProgramError) -> BpfError {
    move |source| BpfError::Program {
        program,
        source: Box::new(source),
    }
}

fn unlinkable(program: &'static str) -> impl Fn(LinkError) -> BpfError {
    move |source| BpfError::Link { program, source }
}

fn open(path: &Path) -> Result<fs::File, BpfError> {
    fs::File::open(path).map_err(|source| BpfError::Target {
        path: path.to_owned(),
        source,
    })
}

/// Hands the programs' log lines to the agent's own log until the process ends.
fn forward<T: log::Log + Send + 'static>(mut logger: EbpfLogger<T>) {
    std::thread::spawn(move || {
        loop {
            logger.flush();
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
}
