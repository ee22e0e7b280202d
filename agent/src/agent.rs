//! The agent as a whole: puts the parts together in an order that never opens a hole, and takes
//! them apart again.

use std::{
    num::{NonZeroU16, NonZeroU32},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use attestation::identity::SpiffeId;
use tokio::{runtime, sync::mpsc, task::LocalSet};
use tracing::info;

use crate::{
    admin::{Admin, AdminState},
    agent_error::{AgentError, failed},
    bpf::{Options, version},
    config::{CertificateOrigin, Config, ConfigOrigin, LocalAcceleration},
    divide::Divided,
    enrolment::{Enroller, Prepared, Slot},
    fd_store::FdStore,
    heartbeat::Beating,
    inherited::{Inherited, Item},
    instance::{InstanceLock, LockError},
    kernel_tls::KernelTls,
    loader::{ControlMaps, Steering},
    log_queue::LogQueue,
    readiness::ReadinessBoard,
    registry::Registry,
    reload::{Changes, InForce},
    report::Telemetry,
    running::{Offered, Running, follow_reports},
    service_manager::{self, Pulse},
    serving::{Candidate, Serving},
    signals::{Heard, Signals},
    socket_options::{ConnectionHooks, Heartbeat},
    spans::Spans,
    take_over::{Heir, Holder, Terms},
    worker::{self, Start},
    workload::own_cgroup,
};

/// Runs the agent with this configuration until it is told to stop, and with what `origin` says later
/// as soon as it does. With `take_over` it takes the place of an agent that runs, which may then go on
/// with its connections for so long. What the `store` has of an agent before is taken back. What
/// becomes of the lines of the `log` is counted.
///
/// # Errors
/// Where it could not start; what it had attached is then undone, unless it was there before. An agent
/// that was to be taken over from goes on.
pub fn run(
    divided: Divided,
    config: Config,
    origin: ConfigOrigin,
    take_over: Option<Duration>,
    mut store: FdStore,
    log: &LogQueue,
) -> Result<(), AgentError> {
    let instance = config.pins.instance.clone();
    let terms = terms(&config);
    let heir = match take_over {
        Some(_) => Heir::ask(instance.as_str(), terms.clone())?,
        None => None,
    };
    let (lock, heir, inherited) = if let Some((heir, lock, inherited)) = heir {
        let lock = InstanceLock::inherit(instance.as_str(), lock);
        let lock = lock.map_err(failed("sharing the instance's lock"))?;
        store.assume(&inherited, &terms.maps);
        (lock, Some(heir), inherited)
    } else {
        if take_over.is_some() {
            info!("no agent runs that could hand over: this one starts as usual");
        }
        (lock(&config)?, None, store.inherit(&terms.maps))
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("making the event loop"))?;
    LocalSet::new().block_on(&runtime, async {
        let mut signals = Signals::new().map_err(failed("listening for signals"))?;
        let mut changes = Changes::new(origin);
        let mut running = start(divided, config, lock, inherited, heir.is_none(), log).await?;
        let own_cgroup = own_cgroup().map_err(failed("finding the agent's cgroup"))?;
        match (heir, take_over) {
            (Some(heir), Some(drain)) => {
                let before = heir.serving(drain)?;
                service_manager::taken_over();
                before.announced();
                info!("taken over from the agent that ran, which drains");
                running.steering_after(before, &own_cgroup);
            }
            _ => running.steer_alone(&own_cgroup),
        }
        running.close_older();
        running.keep_in(&mut store);
        service_manager::ready();
        let mut holder = Holder::listen(instance.as_str())
            .map_err(failed("listening for an agent that takes over"))?;
        loop {
            tokio::select! {
                heard = changes.next(&mut signals) => match heard {
                    Heard::Stop => {
                        running.end(&mut signals).await;
                        return Ok(());
                    }
                    Heard::Reload => {
                        let read = changes.read().await;
                        running.in_force.take(read, &mut running.serving);
                        running.keep_in(&mut store);
                    }
                },
                () = running.loader().ended() => return running.without_loader(&mut signals).await,
                Some(request) = holder.next() => {
                    match running.offer(request, &terms, &mut signals).await {
                        Offered::InVain => {}
                        Offered::Taken { drain, announced } => {
                            running.leave(drain, announced, &mut signals).await;
                            return Ok(());
                        }
                        Offered::LoaderEnded => return running.without_loader(&mut signals).await,
                        Offered::Stopped => {
                            running.end(&mut signals).await;
                            return Ok(());
                        }
                    }
                }
            }
        }
    })
}

/// What an agent that takes over from this one must have alike.
fn terms(config: &Config) -> Terms {
    Terms {
        maps: version().to_owned(),
        workers: config.workers.get(),
        local_acceleration: config.local_acceleration == LocalAcceleration::SkMsg,
    }
}

async fn start(
    divided: Divided,
    config: Config,
    lock: InstanceLock,
    mut inherited: Inherited,
    is_alone: bool,
    log: &LogQueue,
) -> Result<Running, AgentError> {
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
        Some(port) => Some(admin(port, inherited.take(&Item::Admin)).await?),
        None => None,
    };
    let options = Options {
        debug: config.ebpf_debug,
        flow_table_entries: config.flow_table_entries.map(NonZeroU32::get),
        local_acceleration: config.local_acceleration == LocalAcceleration::SkMsg,
    };
    let Divided { loader, kernel_tls } = divided;
    let steering = Steering::open(loader, &config.pins, options)?;
    let kernel_tls = KernelTls::new(config.offload, config.splice, kernel_tls);
    let parts = Parts {
        config,
        candidates,
        enrolment,
        admin,
        lock,
        inherited,
        is_alone,
        kernel_tls: Arc::new(kernel_tls),
    };
    let started = parts.start(&steering, log);
    if started.is_err() && steering.are_pins_fresh() {
        let _ = steering.detach();
    }
    started
}

/// What was found and checked before anything was attached.
struct Parts {
    config: Config,
    candidates: Vec<Candidate>,
    enrolment: Option<(Prepared, Vec<Slot>)>,
    admin: Option<Admin>,
    lock: InstanceLock,
    inherited: Inherited,
    /// Whether no other agent serves what this one is to.
    is_alone: bool,
    kernel_tls: Arc<KernelTls>,
}

impl Parts {
    /// The workloads, then the workers, then the heartbeat, without which nothing is let through.
    fn start(self, steering: &Steering, log: &LogQueue) -> Result<Running, AgentError> {
        let Self {
            config,
            candidates,
            enrolment,
            admin,
            lock,
            inherited,
            is_alone,
            kernel_tls,
        } = self;
        let workers = config.workers.get();
        let telemetry = Arc::new(Telemetry::new(log.clone(), Spans::from_environment()?));
        let registry = Arc::new(Registry::new(config.workers));
        let board = ReadinessBoard::new();

        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let mut serving = Serving::new(
            steering.clone(),
            senders,
            registry.clone(),
            telemetry.clone(),
            board.clone(),
            inherited,
        );
        let workloads: Vec<_> = candidates.iter().map(|it| it.workload().id).collect();
        for candidate in candidates {
            serving.add(candidate)?;
        }
        serving.has_started();
        let mut maps = ControlMaps::new(steering.loader().clone());
        maps.forget_all_but(&workloads)?;
        if is_alone {
            maps.forget_clients()?;
        }
        steering.attach_agent(&own_cgroup().map_err(failed("finding the agent's cgroup"))?)?;
        serving.name_strangers();

        telemetry
            .metrics()
            .set_kernel_tls(kernel_tls.capabilities());
        let mut threads = Vec::new();
        let mut pulses = Vec::new();
        for (index, entrances) in receivers.into_iter().enumerate() {
            let start = Start {
                index,
                workers,
                hooks: ConnectionHooks::new(steering.permits(), steering.local_hops()?)
                    .map_err(failed("making a socket to ask the hooks on"))?,
                entrances,
                registry: registry.clone(),
                telemetry: telemetry.clone(),
                kernel_tls: kernel_tls.clone(),
                pulse: Pulse::new(),
            };
            pulses.push(start.pulse.clone());
            threads.push(worker::spawn(start).map_err(failed("starting a worker"))?);
        }
        tokio::task::spawn_local(service_manager::watchdog(pulses));
        let reports = follow_reports(&serving, &telemetry)?;
        if let Some((prepared, slots)) = enrolment {
            let metrics = telemetry.metrics().coordinator();
            let enroller = Enroller::new(prepared, slots, metrics, board.clone());
            tokio::task::spawn_local(enroller.run());
        }
        let instance = config.pins.instance.clone();
        let in_force = InForce::first(config, board.clone(), telemetry.metrics().clone())
            .map_err(failed("writing the configuration as JSON"))?;
        let admin = admin.map(|admin| -> Result<_, AgentError> {
            let sockets = admin
                .share()
                .map_err(failed("keeping the admin interface"))?;
            let state = AdminState {
                registry,
                refusals: telemetry.refusals().clone(),
                workloads: serving.watch(),
                kernel_tls,
                metrics: telemetry.metrics().clone(),
                readiness: board.watch(),
                config_json: in_force.watch(),
            };
            let task = tokio::task::spawn_local(admin.serve(state));
            Ok((sockets, task.abort_handle()))
        });
        let admin = admin.transpose()?;
        let beating = Heartbeat::new(steering.permits()).and_then(Beating::start);
        let beating = beating.map_err(failed("starting the heartbeat"))?;
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
            telemetry,
            reports,
            admin,
            lock,
        })
    }
}

/// The admin interface on this port, by the sockets of the agent before where they are of it.
async fn admin(port: NonZeroU16, inherited: Vec<OwnedFd>) -> Result<Admin, AgentError> {
    let inherited = Admin::inherit(inherited).map_err(failed("taking over the admin interface"))?;
    if inherited.is_on(port) {
        return Ok(inherited);
    }
    drop(inherited);
    Ok(Admin::bind(port).await?)
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
