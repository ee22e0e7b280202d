//! The agent as a whole: puts the parts together in an order that never opens a hole, and takes
//! them apart again.

use std::{
    io, net::SocketAddrV4, num::NonZeroU32, path::PathBuf, sync::Arc, thread::JoinHandle,
    time::Duration,
};

use attestation::identity::SpiffeId;
use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};
use thiserror::Error;
use tokio::{
    runtime,
    sync::mpsc,
    task::LocalSet,
    time::{Instant, sleep, sleep_until},
};
use tracing::info;

use crate::{
    admin::{Admin, AdminError, AdminState},
    bpf::{
        BpfError, ConnectionMaps, ControlMaps, Heartbeat, KernelReports, Options, Pins, Steering,
    },
    certificates::CertificateError,
    config::{CertificateOrigin, Config, ConfigOrigin, LocalAcceleration},
    enrolment::{Enroller, Prepared, SetupError, Slot},
    heartbeat::Beating,
    instance::{InstanceLock, LockError},
    interfaces::InterfaceError,
    kernel_reports,
    kernel_tls::KernelTls,
    policy::WorkloadName,
    readiness::ReadinessBoard,
    registry::Registry,
    reload::{Changes, InForce, Wanted},
    report::Telemetry,
    serving::{Candidate, Serving},
    signals::Signals,
    worker::{self, Start, Stop},
    workload::{WorkloadError, own_cgroup},
};

/// How long connections may go on after the agent was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the agent could not start.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Something of the machine or the kernel is missing.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A workload can't be served.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// A workload's interfaces can't be followed.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// Another agent serves the instance.
    #[error(
        "another agent serves instance {instance} (it holds {path}); stop it, or give this \
             one another --instance"
    )]
    Running {
        /// The instance.
        instance: String,
        /// The lock.
        path: PathBuf,
    },
    /// The process has too few rights.
    #[error("the agent must run as root: it loads eBPF programs and enters network namespaces")]
    NotRoot,
    /// The certificate files that are there can't serve.
    #[error("workload {workload}: {source}")]
    Certificate {
        /// The workload.
        workload: WorkloadName,
        /// What is wrong with which file.
        source: CertificateError,
    },
    /// The Coordinator can't even be asked.
    #[error(transparent)]
    Coordinator(#[from] SetupError),
    /// Something else listens where a listener of the configuration should.
    #[error(
        "workload {workload}: listener {listen} is taken: another program listens there; stop it, or \
         choose another address of 127.0.0.0/8"
    )]
    ListenerTaken {
        /// The workload.
        workload: WorkloadName,
        /// The address.
        listen: SocketAddrV4,
    },
    /// The admin interface can't be had.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Another call to the system failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl AgentError {
    /// The exit code: 2 where the operator must change what was asked for, 3 where the machine
    /// can't do it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Workload(_)
            | Self::Certificate { .. }
            | Self::Running { .. }
            | Self::ListenerTaken { .. }
            | Self::Admin(_) => 2,
            Self::Coordinator(error) => error.exit_code(),
            Self::Bpf(_) | Self::NotRoot | Self::Interface(InterfaceError::Bpf(_)) => 3,
            Self::Interface(_) | Self::System { .. } => 1,
        }
    }
}

/// Runs the agent with this configuration until it is told to stop, and with what `origin` says later
/// as soon as it does.
///
/// # Errors
/// Where it could not start; what it had attached is then undone, unless it was there before.
pub fn run(config: Config, origin: ConfigOrigin) -> Result<(), AgentError> {
    protect_memory()?;
    if !nix::unistd::geteuid().is_root() {
        return Err(AgentError::NotRoot);
    }
    let _lock = lock(&config)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("making the event loop"))?;
    LocalSet::new().block_on(&runtime, async {
        let mut signals = Signals::new().map_err(failed("listening for signals"))?;
        let mut changes = Changes::new(origin);
        let mut running = start(config).await?;
        while let Wanted::Configuration(read) = changes.next(&mut signals).await {
            running.in_force.take(read, &mut running.serving);
        }
        running.end(&mut signals).await;
        Ok(())
    })
}

/// What runs, to be ended in order.
#[derive(Debug)]
struct Running {
    beating: Beating,
    serving: Serving,
    in_force: InForce,
    workers: Vec<JoinHandle<()>>,
}

async fn start(config: Config) -> Result<Running, AgentError> {
    let mut slots = Vec::new();
    let candidates = config
        .workloads
        .iter()
        .map(|workload| Candidate::find(workload, &mut slots))
        .collect::<Result<_, _>>()?;
    let enrolment = match &config.coordinator {
        Some(coordinator) => Some((Prepared::new(coordinator, identities(&config))?, slots)),
        None => None,
    };
    let admin = match config.admin_port {
        Some(port) => Some(Admin::bind(port).await?),
        None => None,
    };
    let directory = config.pins.clone();
    let pins = Pins::open(&directory.bpffs, directory.instance.as_str())?;
    let fresh = pins.are_fresh();
    let parts = Parts {
        config,
        candidates,
        enrolment,
        admin,
    };
    let started = parts.start(pins);
    if started.is_err() && fresh {
        let _ = Pins::detach(&directory.bpffs, directory.instance.as_str());
    }
    started
}

/// What was found and checked before anything was attached.
struct Parts {
    config: Config,
    candidates: Vec<Candidate>,
    enrolment: Option<(Prepared, Vec<Slot>)>,
    admin: Option<Admin>,
}

impl Parts {
    /// The workloads, then the workers, then the heartbeat, without which nothing is let through.
    fn start(self, pins: Pins) -> Result<Running, AgentError> {
        let Self {
            config,
            candidates,
            enrolment,
            admin,
        } = self;
        let options = Options {
            debug: config.ebpf_debug,
            flow_table_entries: config.flow_table_entries.map(NonZeroU32::get),
            local_acceleration: config.local_acceleration == LocalAcceleration::SkMsg,
        };
        let steering = Steering::new(pins, options)?;
        let workers = config.workers.get();
        let telemetry = Arc::new(Telemetry::new());
        let registry = Arc::new(Registry::new(config.workers));
        let board = ReadinessBoard::new();

        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let mut serving = Serving::new(
            steering,
            senders,
            registry.clone(),
            telemetry.clone(),
            board.clone(),
        );
        let workloads: Vec<_> = candidates.iter().map(|it| it.workload().id).collect();
        for candidate in candidates {
            serving.add(candidate)?;
        }
        let steering = serving.steering();
        let pins = steering.pins();
        ControlMaps::open(pins)?.forget_all_but(&workloads)?;
        steering.attach_agent(&own_cgroup().map_err(failed("finding the agent's cgroup"))?)?;
        serving.name_strangers();

        let kernel_tls = Arc::new(KernelTls::probe(config.offload, config.splice));
        telemetry
            .metrics()
            .set_kernel_tls(kernel_tls.capabilities());
        let mut threads = Vec::new();
        for (index, entrances) in receivers.into_iter().enumerate() {
            let start = Start {
                index,
                workers,
                maps: ConnectionMaps::open(pins, steering.acceleration())?,
                entrances,
                registry: registry.clone(),
                telemetry: telemetry.clone(),
                kernel_tls: kernel_tls.clone(),
            };
            threads.push(worker::spawn(start).map_err(failed("starting a worker"))?);
        }
        tokio::task::spawn_local(kernel_reports::follow(
            KernelReports::open(pins)?,
            serving.watch(),
            telemetry.clone(),
        ));
        if let Some((prepared, slots)) = enrolment {
            let metrics = telemetry.metrics().coordinator();
            let enroller = Enroller::new(prepared, slots, metrics, board.clone());
            tokio::task::spawn_local(enroller.run());
        }
        let instance = config.pins.instance.clone();
        let in_force = InForce::first(config, board.clone(), telemetry.metrics().clone())
            .map_err(failed("writing the configuration as JSON"))?;
        if let Some(admin) = admin {
            let state = AdminState {
                registry,
                metrics: telemetry.metrics().clone(),
                readiness: board.watch(),
                config_json: in_force.watch(),
            };
            tokio::task::spawn_local(admin.serve(state));
        }
        let beating =
            Beating::start(Heartbeat::open(pins)?).map_err(failed("starting the heartbeat"))?;
        info!(
            workloads = workloads.len(),
            workers,
            %instance,
            "the agent serves"
        );
        Ok(Running {
            beating,
            serving,
            in_force,
            workers: threads,
        })
    }
}

impl Running {
    /// Refuses what is new, lets run what runs for a while, then ends it.
    async fn end(self, signals: &mut Signals) {
        let Self {
            beating,
            mut serving,
            workers,
            ..
        } = self;
        drop(beating);
        serving.stop(Stop::Draining);
        info!(
            seconds = DRAIN.as_secs(),
            "draining; a second signal ends it at once"
        );
        let deadline = Instant::now() + DRAIN;
        tokio::select! {
            () = finished(&workers) => {}
            () = sleep_until(deadline) => {}
            () = signals.stop() => {}
        }
        serving.stop(Stop::Now);
        finished(&workers).await;
        info!("the agent has stopped; connections of its workloads stay refused");
    }
}

async fn finished(workers: &[JoinHandle<()>]) {
    while !workers.iter().all(JoinHandle::is_finished) {
        sleep(Duration::from_millis(20)).await;
    }
}

fn lock(config: &Config) -> Result<InstanceLock, AgentError> {
    let instance = config.pins.instance.as_str();
    InstanceLock::take(instance).map_err(|error| match error {
        LockError::Taken(path) => AgentError::Running {
            instance: instance.to_owned(),
            path,
        },
        LockError::Io(source) => failed("taking the instance's lock")(source),
    })
}

/// Whom the workloads ask to be; `None` is whoever the agent's own policy says.
fn identities(config: &Config) -> Vec<Option<SpiffeId>> {
    let workloads = config.workloads.iter();
    workloads
        .filter_map(|workload| match &workload.certificates {
            CertificateOrigin::Coordinator { spiffe_id } => Some(spiffe_id.clone()),
            CertificateOrigin::Files { .. } => None,
        })
        .collect()
}

/// Many connections need many descriptors; for the rest see [`forbid_core_dumps`].
fn protect_memory() -> Result<(), AgentError> {
    let limits = || -> nix::Result<()> {
        forbid_core_dumps()?;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    };
    limits().map_err(|errno| failed("setting the process's limits")(errno.into()))
}

/// Keys must not reach a disk by way of a core dump.
pub(crate) fn forbid_core_dumps() -> nix::Result<()> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// What a call to the system was for.
pub(crate) fn failed(what: &'static str) -> impl Fn(io::Error) -> AgentError {
    move |source| AgentError::System { what, source }
}
