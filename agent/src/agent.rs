//! The agent as a whole: puts the parts together in an order that never opens a hole, and takes
//! them apart again.

use std::{
    io,
    net::SocketAddrV4,
    num::NonZeroU32,
    os::fd::AsFd,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use attestation::identity::SpiffeId;
use ebpf_abi::Workload as WorkloadState;
use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};
use thiserror::Error;
use tokio::{
    runtime,
    sync::{mpsc, watch},
    task::LocalSet,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use crate::{
    admin::{Admin, AdminError, AdminState},
    bpf::{
        BpfError, ConnectionMaps, ControlMaps, Heartbeat, KernelReports, Options, Permits, Pins,
        Steering,
    },
    certificates::{self, CertificateError, CertificateFiles, Credential},
    config::{CertificateOrigin, Config, LocalAcceleration},
    credentials::{CredentialKeeper, CredentialSource},
    enrolment::{Enroller, Prepared, SetupError, Slot},
    heartbeat::Beating,
    instance::{InstanceLock, LockError},
    interfaces::{InterfaceError, InterfaceWatch},
    kernel_reports,
    kernel_tls::KernelTls,
    listen::{ListenError, Listeners},
    policy::{IngressMode, WorkloadName},
    readiness::ReadinessBoard,
    registry::Registry,
    report::Telemetry,
    signals::Signals,
    worker::{self, Entrance, Start, Stop},
    workload::{Workload, WorkloadError, own_cgroup},
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

/// Runs the agent until it is told to stop.
///
/// # Errors
/// Where it could not start; what it had attached is then undone, unless it was there before.
pub fn run(config: Config) -> Result<(), AgentError> {
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
        let (stop, stopped) = watch::channel(Stop::Running);
        let running = start(config, stopped).await?;
        signals.stop().await;
        running.end(&stop, &mut signals).await;
        Ok(())
    })
}

/// What runs, to be ended in order.
#[derive(Debug)]
struct Running {
    beating: Beating,
    workers: Vec<JoinHandle<()>>,
}

async fn start(config: Config, stop: watch::Receiver<Stop>) -> Result<Running, AgentError> {
    let mut keepers = Vec::new();
    let mut workloads = Vec::new();
    let mut slots = Vec::new();
    for workload in &config.workloads {
        let (sender, receiver) = certificates::channel();
        workloads.push(Arc::new(Workload::find(workload, receiver)?));
        let source = match &workload.certificates {
            CertificateOrigin::Files { tls_dir } => {
                let files = CertificateFiles::new(tls_dir.clone());
                files.check().map_err(|source| AgentError::Certificate {
                    workload: workload.name.clone(),
                    source,
                })?;
                CredentialSource::Files(files)
            }
            CertificateOrigin::Coordinator { .. } => {
                let (issued, messages) = mpsc::channel(1);
                slots.push(Slot::new(issued, sender.subscribe()));
                CredentialSource::Coordinator(messages)
            }
        };
        keepers.push((source, sender));
    }
    let enrolment = match &config.coordinator {
        Some(coordinator) => Some((Prepared::new(coordinator, identities(&config))?, slots)),
        None => None,
    };
    let admin = match config.admin_port {
        Some(port) => Some(Admin::bind(port).await?),
        None => None,
    };
    let pins = Pins::open(&config.pins.bpffs, config.pins.instance.as_str())?;
    let fresh = pins.are_fresh();
    let parts = Parts {
        config: &config,
        workloads,
        keepers,
        enrolment,
        admin,
        stop,
    };
    let started = parts.start(pins);
    if started.is_err() && fresh {
        let _ = Pins::detach(&config.pins.bpffs, config.pins.instance.as_str());
    }
    started
}

/// What was found and checked before anything was attached.
struct Parts<'a> {
    config: &'a Config,
    workloads: Vec<Arc<Workload>>,
    keepers: Vec<(CredentialSource, watch::Sender<Credential>)>,
    enrolment: Option<(Prepared, Vec<Slot>)>,
    admin: Option<Admin>,
    stop: watch::Receiver<Stop>,
}

impl Parts<'_> {
    /// Listeners, then maps, then links, then the heartbeat, without which nothing is let through.
    fn start(self, pins: Pins) -> Result<Running, AgentError> {
        let Self {
            config,
            workloads,
            keepers,
            enrolment,
            admin,
            stop,
        } = self;
        let options = Options {
            debug: config.ebpf_debug,
            flow_table_entries: config.flow_table_entries.map(NonZeroU32::get),
            local_acceleration: config.local_acceleration == LocalAcceleration::SkMsg,
        };
        let steering = Steering::new(pins, options)?;
        let pins = steering.pins();
        let workers = config.workers.get();
        let telemetry = Arc::new(Telemetry::new());
        let registry = Arc::new(Registry::new(config.workers));
        let board = ReadinessBoard::new();

        let mut starts: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
        let mut owners = Vec::new();
        for (workload, (source, sender)) in workloads.iter().zip(keepers) {
            let mut maps = ControlMaps::open(pins)?;
            let mut state = WorkloadState {
                netns: workload.netns_cookie,
                workers: workers as u32,
                ..WorkloadState::default()
            };
            for (index, start) in starts.iter_mut().enumerate() {
                let listeners = Listeners::open(&workload.netns, &workload.listeners)
                    .map_err(not_listening(&workload.name))?;
                publish(&mut maps, workload, index, &listeners, &mut state)?;
                let permits = (!listeners.named.is_empty())
                    .then(|| Permits::open(pins))
                    .transpose()?;
                start.push(Entrance {
                    workload: workload.clone(),
                    listeners,
                    permits,
                });
            }
            let mut keeper = CredentialKeeper::new(
                workload.clone(),
                source,
                sender,
                registry.clone(),
                state,
                telemetry.workload(&workload.name),
                board.clone(),
            );
            keeper.look(&mut maps, SystemTime::now());
            let (default_is_plaintext, ports) = plaintext_ports(&workload.ingress);
            maps.set_ingress_ports(workload.id, default_is_plaintext, &ports)?;
            let mut interfaces = InterfaceWatch::new(workload.clone(), &mut maps)?;

            let owner = workload.owner();
            let programs = steering.attach_workload(
                &owner,
                workload.id,
                &workload.cgroup,
                workload.netns.as_fd(),
            )?;
            interfaces.guard(programs, &mut maps)?;
            owners.push(owner);
            tokio::task::spawn_local(interfaces.follow(ControlMaps::open(pins)?));
            tokio::task::spawn_local(keeper.keep(maps));
        }
        ControlMaps::open(pins)?
            .forget_all_but(&workloads.iter().map(|it| it.id).collect::<Vec<_>>())?;
        steering.attach_agent(&own_cgroup().map_err(failed("finding the agent's cgroup"))?)?;
        for stranger in steering.strangers(&owners) {
            warn!(
                pins = stranger,
                "a workload served before is not configured any more; its connections stay \
                 refused until --detach"
            );
        }

        let kernel_tls = Arc::new(KernelTls::probe(config.offload, config.splice));
        telemetry
            .metrics()
            .set_kernel_tls(kernel_tls.capabilities());
        let mut threads = Vec::new();
        for (index, entrances) in starts.into_iter().enumerate() {
            let start = Start {
                index,
                workers,
                maps: ConnectionMaps::open(pins, steering.acceleration())?,
                entrances,
                registry: registry.clone(),
                telemetry: telemetry.clone(),
                kernel_tls: kernel_tls.clone(),
                stop: stop.clone(),
            };
            threads.push(worker::spawn(start).map_err(failed("starting a worker"))?);
        }
        tokio::task::spawn_local(kernel_reports::follow(
            KernelReports::open(pins)?,
            workloads.clone(),
            telemetry.clone(),
        ));
        if let Some((prepared, slots)) = enrolment {
            let metrics = telemetry.metrics().coordinator();
            let enroller = Enroller::new(prepared, slots, metrics, board.clone());
            tokio::task::spawn_local(enroller.run());
        }
        if let Some(admin) = admin {
            let state = AdminState {
                registry,
                refusals: telemetry.refusals().clone(),
                workloads: watch::channel(workloads.clone()).1,
                kernel_tls,
                metrics: telemetry.metrics().clone(),
                readiness: board.watch(),
                config_json: config_json(config)?,
            };
            tokio::task::spawn_local(admin.serve(state));
        }
        let beating =
            Beating::start(Heartbeat::open(pins)?).map_err(failed("starting the heartbeat"))?;
        info!(
            workloads = workloads.len(),
            workers,
            instance = %config.pins.instance,
            "the agent serves"
        );
        Ok(Running {
            beating,
            workers: threads,
        })
    }
}

impl Running {
    /// Refuses what is new, lets run what runs for a while, then ends it.
    async fn end(self, stop: &watch::Sender<Stop>, signals: &mut Signals) {
        let Self { beating, workers } = self;
        drop(beating);
        stop.send_replace(Stop::Draining);
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
        stop.send_replace(Stop::Now);
        finished(&workers).await;
        info!("the agent has stopped; connections of its workloads stay refused");
    }
}

async fn finished(workers: &[JoinHandle<()>]) {
    while !workers.iter().all(JoinHandle::is_finished) {
        sleep(Duration::from_millis(20)).await;
    }
}

fn config_json(config: &Config) -> Result<Arc<str>, AgentError> {
    let json = serde_json::to_string_pretty(config).map_err(io::Error::from);
    Ok(json
        .map_err(failed("writing the configuration as JSON"))?
        .into())
}

/// Enters a worker's listeners into the maps and into the workload's state.
fn publish(
    maps: &mut ControlMaps,
    workload: &Workload,
    index: usize,
    listeners: &Listeners,
    state: &mut WorkloadState,
) -> Result<(), AgentError> {
    state.egress_v4[index] = listeners.egress_port(false).unwrap_or(0);
    state.egress_v6[index] = listeners.egress_port(true).unwrap_or(0);
    for listener in &listeners.ingress {
        let ipv6 = listener
            .local_addr()
            .map_err(failed("asking a listener"))?
            .is_ipv6();
        maps.set_listener(workload.id, index as u32, ipv6, listener)?;
    }
    Ok(())
}

/// The ports that differ from the default, and whether each is plaintext.
fn plaintext_ports(policy: &crate::policy::IngressPolicy) -> (bool, Vec<(u16, bool)>) {
    let is_plaintext = |mode| mode == IngressMode::Plaintext;
    let default = is_plaintext(policy.default_mode());
    let ports = policy
        .rules()
        .iter()
        .map(|rule| (rule.port.get(), is_plaintext(rule.mode)))
        .filter(|(_, plaintext)| *plaintext != default)
        .collect();
    (default, ports)
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

fn not_listening(workload: &WorkloadName) -> impl Fn(ListenError) -> AgentError {
    move |error| match error {
        ListenError::Taken(listen) => AgentError::ListenerTaken {
            workload: workload.clone(),
            listen,
        },
        ListenError::System(source) => failed("listening in a workload's namespace")(source),
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> AgentError {
    move |source| AgentError::System { what, source }
}
