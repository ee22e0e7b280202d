//! The agent's configuration: what the operator wrote, made into values that cannot be invalid.
//!
//! An option wins over the environment, the environment over the file, the file over the default.
//! All mistakes are reported at once, each with its place and what to do. Nothing here touches the
//! kernel except [`Config::check_system`], which only looks.

#![forbid(unsafe_code)]

pub mod flags;
pub mod policy;

mod address;
mod check;
mod choices;
mod contrast;
mod coordinator;
mod file;
mod in_force;
mod init;
mod keys;
mod layers;
mod origin;
mod problem;
mod reference;
mod rules;
mod system;

use std::fmt;
use std::net::SocketAddrV4;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ebpf_abi::MAX_WORKERS;
use serde::Serialize;

use crate::flags::{Environment, Flags};
use crate::policy::{EgressPolicy, IngressPolicy, PeerSet, UdpMode, WorkloadName};
use check::Checker;
use coordinator::CertificatesFrom;
use file::{FileKeys, Given, Origin, Source};
use in_force::Origins;
use keys::Keys as _;
use layers::{BPFFS, CONFIG, INSTANCE, Layers, RunMode, WORKERS};

pub use address::{AddressError, CoordinatorAddress};
pub use choices::{LocalAcceleration, LogFormat, LogLevel, OffloadChoice, SpliceChoice};
pub use contrast::{EntryError, Host, Remote};
pub use coordinator::{CertificateOrigin, Coordinator, Tee};
pub use file::ConfigFile;
pub use init::InitConfig;
pub use origin::ConfigOrigin;
pub use problem::{ConfigError, Finding, Place, Problem, Rule, Subject, WorkloadRef};
pub use reference::{json_schema, reference};

/// Everything that the agent needs to know to run. Holds no secret; serialized, it is `/config`.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// Loopback port of the admin interface; `None` is off.
    pub admin_port: Option<NonZeroU16>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The least important level that is logged.
    pub log_level: LogLevel,
    /// Whether the eBPF programs log what they do.
    pub ebpf_debug: bool,
    /// Which directions of a connection the kernel's TLS may protect.
    pub offload: OffloadChoice,
    /// Whether bulk that the kernel protects is moved by splice(2).
    pub splice: SpliceChoice,
    /// Whether messages from programs to the agent pass the loopback's TCP by.
    pub local_acceleration: LocalAcceleration,
    /// How many worker threads serve connections.
    pub workers: NonZeroUsize,
    /// How many connections may be on their way to the agent at once; `None` is the eBPF object's
    /// own size.
    pub flow_table_entries: Option<NonZeroU32>,
    /// Where the eBPF programs and maps outlive the agent.
    pub pins: Pins,
    /// Where certificates come from; `None` is from files.
    pub coordinator: Option<Coordinator>,
    /// The workloads, at least one, in the order of the file.
    pub workloads: Vec<Workload>,
}

impl Config {
    /// Reads the file that `flags` or `environment` name, if any, and combines all three.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Self, ConfigError> {
        let file = named_file(flags, environment)?;
        effective(flags, environment, file)
    }
}

/// Where one agent keeps its pins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pins {
    /// The mount point of the BPF file system.
    pub bpffs: PathBuf,
    /// Which agent of this machine the pins belong to.
    pub instance: InstanceName,
}

impl Pins {
    /// As [`Config::load`], but only as much as `--detach` needs: the workloads may be gone and the
    /// rules wrong.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Self, ConfigError> {
        let given = Layers { flags, environment };
        let file = match given.option(INSTANCE) {
            Some(_) => None,
            None => named_file(flags, environment)?,
        };
        let (source, mut keys, mistakes) = parts(file);
        let mut checker = Checker::new(source.as_ref());
        checker.take(mistakes);

        let pod_name = match given.apply_pod_mode(&mut checker, &mut keys) {
            RunMode::Pod => keys.workload.pop().and_then(|workload| workload.value.name),
            RunMode::Node => None,
        };
        let pod_name = pod_name.and_then(|name| checker.name("name", name));
        let pins = given.pins(&mut checker, pod_name.as_ref());
        checker.finish()?;
        Ok(pins)
    }
}

/// The name of one agent among those of a machine: as [`WorkloadName`], `default` in node mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceName(Arc<str>);

impl InstanceName {
    /// The name as text; good as a file's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for InstanceName {
    fn default() -> Self {
        Self("default".into())
    }
}

impl From<&WorkloadName> for InstanceName {
    fn from(name: &WorkloadName) -> Self {
        Self(name.shared())
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for InstanceName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// One `[[workload]]`: the processes of a cgroup, and what may happen to their connections.
#[derive(Clone, Debug, Serialize)]
pub struct Workload {
    /// Unique on this machine; what logs and metrics call it.
    pub name: WorkloadName,
    /// cgroup2 directory that holds the workload's processes, or whose descendants do.
    pub cgroup: PathBuf,
    /// File of the network namespace; `None` is the agent's own. No two workloads share one, but those
    /// that say so.
    pub netns: Option<PathBuf>,
    /// Whether the namespace is others' as well: then the workload is what its own programs' sockets
    /// are, rather than everything in the namespace.
    pub shares_netns: bool,
    /// Where its certificate comes from; the same for every workload.
    #[serde(flatten)]
    pub certificates: CertificateOrigin,
    /// What a client must bring.
    pub ingress: IngressPolicy,
    /// What happens to the workload's own connections.
    pub egress: EgressPolicy,
    /// Addresses of its loopback that lead elsewhere.
    pub listeners: Vec<EgressListener>,
    /// Whether it may send datagrams.
    pub udp: UdpMode,
    /// What lists of peers, and denials by workload, are for.
    pub enforcement: Enforcement,
}

/// What happens to a peer that is of the mesh, but on no list of the rule, or denied as a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// It is refused.
    Enforced,
    /// It is let through, told and counted.
    DryRun,
}

/// One `[[workload.listener]]`: what the program dials, and where that leads, with mutual TLS.
#[derive(Clone, Debug, Serialize)]
pub struct EgressListener {
    /// What the program dials, in 127.0.0.0/8.
    pub listen: SocketAddrV4,
    /// Where that leads.
    #[serde(serialize_with = "display")]
    pub remote: Remote,
    /// Who may answer.
    pub peers: PeerSet,
}

fn display<S: serde::Serializer>(remote: &Remote, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(remote)
}

/// Combines the command line, the environment and the file, if there is one.
pub fn effective(
    flags: &Flags,
    environment: &Environment,
    file: Option<ConfigFile>,
) -> Result<Config, ConfigError> {
    combine(flags, environment, file, None)
}

/// What [`effective`] answers, as a file that means the same. With `origins`, a comment says of each
/// value where it was given.
pub fn in_force(
    flags: &Flags,
    environment: &Environment,
    file: Option<ConfigFile>,
    origins: bool,
) -> Result<String, ConfigError> {
    let mut given = origins.then(Origins::new);
    let config = combine(flags, environment, file, given.as_mut())?;
    Ok(in_force::print(&config, given.as_ref()))
}

fn combine(
    flags: &Flags,
    environment: &Environment,
    file: Option<ConfigFile>,
    origins: Option<&mut Origins>,
) -> Result<Config, ConfigError> {
    let given = Layers { flags, environment };
    let (source, mut keys, mistakes) = parts(file);
    let mut checker = Checker::new(source.as_ref());
    checker.take(mistakes);
    let run_mode = given.apply_pod_mode(&mut checker, &mut keys);
    given.apply_contrast(&mut checker, &mut keys);
    given.apply_options(&mut keys);
    let merged = given.coordinator_keys(keys.coordinator.take());
    if let Some(origins) = origins {
        let mut note = |path: String, origin| {
            origins.extend(checker.place(origin).map(|place| (path, place)));
        };
        keys.visit("", &mut note);
        merged.visit(&mut note);
        for option in [WORKERS, INSTANCE, BPFFS] {
            if let Some(value) = given.option(option) {
                note(option.name.to_owned(), value.origin);
            }
        }
    }

    let admin_port = keys
        .admin_port
        .map(Given::from)
        .and_then(|port| checker.port("admin_port", port));
    let log_format = checker.word(
        "log_format",
        keys.log_format,
        LogFormat::Text,
        &LogFormat::ALL,
        LogFormat::as_str,
    );
    let log_level = checker.word(
        "log_level",
        keys.log_level,
        LogLevel::Info,
        &LogLevel::ALL,
        LogLevel::as_str,
    );
    let offload = checker.word(
        "offload",
        keys.offload,
        OffloadChoice::default(),
        &OffloadChoice::ALL,
        OffloadChoice::as_str,
    );
    let splice = checker.word(
        "splice",
        keys.splice,
        SpliceChoice::default(),
        &SpliceChoice::ALL,
        SpliceChoice::as_str,
    );
    let local_acceleration = checker.word(
        "local_acceleration",
        keys.local_acceleration,
        LocalAcceleration::default(),
        &LocalAcceleration::ALL,
        LocalAcceleration::as_str,
    );
    let workers = match given.option(WORKERS) {
        Some(workers) => checker.workers(workers),
        None => cores(),
    };
    let flow_table_entries = keys
        .flow_table_entries
        .map(Given::from)
        .and_then(|entries| checker.flow_table_entries(entries));
    if keys.workload.is_empty() && checker.has_found_nothing() {
        checker.report(Origin::Nowhere, Problem::NoWorkload);
    }
    let mut coordinator = merged
        .origin()
        .map(|origin| checker.coordinator(merged, origin));
    let certificates = match coordinator {
        None => CertificatesFrom::Files,
        Some(_) => CertificatesFrom::Coordinator {
            names_required: keys.workload.len() > 1,
        },
    };
    let workloads = checker.workloads(keys.workload, certificates);
    let pod = workloads.first().filter(|_| run_mode == RunMode::Pod);
    let pins = given.pins(&mut checker, pod.map(|workload| &workload.name));
    if let Some(coordinator) = &mut coordinator {
        let default = || PathBuf::from(format!("{STATE_DIRS}{}", pins.instance));
        coordinator.state_dir.get_or_insert_with(default);
    }

    checker.finish()?;
    Ok(Config {
        ebpf_debug: flags.ebpf_debug,
        admin_port,
        log_format,
        log_level,
        offload,
        splice,
        local_acceleration,
        workers,
        flow_table_entries,
        pins,
        coordinator,
        workloads,
    })
}

type Parts = (Option<Source>, FileKeys, Vec<(usize, String)>);

fn parts(file: Option<ConfigFile>) -> Parts {
    match file {
        Some(ConfigFile {
            source,
            keys,
            mistakes,
        }) => (Some(source), keys, mistakes),
        None => Parts::default(),
    }
}

fn named_file(flags: &Flags, environment: &Environment) -> Result<Option<ConfigFile>, ConfigError> {
    let path = Layers { flags, environment }.option(CONFIG);
    path.map(|path| ConfigFile::read(Path::new(&path.value)))
        .transpose()
}

fn cores() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(cores.get().min(MAX_WORKERS)).unwrap_or(NonZeroUsize::MIN)
}

/// An agent's instance follows.
const STATE_DIRS: &str = "/var/lib/sealwire/agent-";

#[cfg(test)]
mod tests;
