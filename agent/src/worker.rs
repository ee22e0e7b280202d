//! Worker threads: one event loop each. A connection lives on the worker that accepted it.

use std::{
    cell::RefCell, io, net::TcpListener as StdTcpListener, rc::Rc, sync::Arc, thread,
    time::Duration,
};

use nix::errno::Errno;
use tokio::{
    net::TcpListener,
    runtime,
    sync::{mpsc, watch},
    task::{JoinSet, LocalSet},
    time::sleep,
};
use tracing::{error, warn};

use crate::{
    admission::Admission,
    connection::{Door, NamedListener, Worker, serve},
    kernel_tls::KernelTls,
    listen::{Listeners, NamedSocket},
    names::Names,
    policy::Direction,
    registry::Registry,
    report::{Reporter, Telemetry},
    service_manager::Pulse,
    socket_options::{ConnectionHooks, Permits},
    strangers::Strangers,
    workload::Workload,
};

/// What a worker thread starts with.
#[derive(Debug)]
pub(crate) struct Start {
    /// Its number, from 0.
    pub index: usize,
    /// How many there are.
    pub workers: usize,
    /// How it asks the hooks.
    pub hooks: ConnectionHooks,
    /// Where it is to accept; it ends when nobody can tell it any more and its connections are over.
    pub entrances: mpsc::UnboundedReceiver<Entrance>,
    /// Where live connections are listed.
    pub registry: Arc<Registry>,
    /// Where outcomes are told.
    pub telemetry: Arc<Telemetry>,
    /// What the kernel's TLS is used for.
    pub kernel_tls: Arc<KernelTls>,
    /// That its event loop turns.
    pub pulse: Pulse,
}

/// One worker's ways into one workload.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// Whose.
    pub workload: Arc<Workload>,
    /// The listeners.
    pub kind: EntranceKind,
}

/// Which ways.
#[derive(Debug)]
pub(crate) enum EntranceKind {
    /// Those that the hooks turn connections to.
    Steered {
        /// The listeners.
        listeners: Listeners,
        /// How far their end has come.
        stop: watch::Receiver<Stop>,
    },
    /// Those that programs dial.
    Named {
        /// The listeners, with how far the end of each has come.
        listeners: Vec<(NamedSocket, watch::Receiver<Stop>)>,
        /// For queries of names.
        permits: Permits,
    },
}

/// How far the end of a listener has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Not at all.
    #[default]
    Running,
    /// No connection is accepted any more; those that run go on.
    Draining,
    /// Those that run are reset.
    Now,
}

/// Handshakes that one source may have under way, over all workers.
const HANDSHAKES_PER_SOURCE: usize = 256;

/// How long a listener rests when the process has no file descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Starts a worker thread. It ends when it has stopped and its connections are over.
///
/// # Errors
/// Where the thread can't be made.
pub(crate) fn spawn(start: Start) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name(format!("worker-{}", start.index))
        .spawn(move || {
            let built = runtime::Builder::new_current_thread().enable_all().build();
            match built {
                Ok(runtime) => LocalSet::new().block_on(&runtime, run(start)),
                Err(error) => error!(%error, "a worker's event loop can't be made"),
            }
        })
}

async fn run(start: Start) {
    let worker = Rc::new(Worker {
        index: start.index,
        hooks: RefCell::new(start.hooks),
        admission: Admission::new(HANDSHAKES_PER_SOURCE / start.workers),
        order: Rc::default(),
        strangers: Strangers::default(),
        registry: start.registry,
        kernel_tls: start.kernel_tls,
    });
    tokio::task::spawn_local(start.pulse.answer());
    let mut doors = JoinSet::new();
    let mut entrances = start.entrances;
    loop {
        tokio::select! {
            entrance = entrances.recv() => match entrance {
                Some(entrance) => open(&worker, &mut doors, &start.telemetry, entrance),
                None => break,
            },
            Some(_) = doors.join_next() => {}
        }
    }
    while doors.join_next().await.is_some() {}
}

/// Begins to accept there.
fn open(
    worker: &Rc<Worker>,
    doors: &mut JoinSet<()>,
    telemetry: &Arc<Telemetry>,
    entrance: Entrance,
) {
    let Entrance { workload, kind } = entrance;
    let reporter = |direction| Rc::new(Reporter::new(telemetry, &workload.name, direction));
    match kind {
        EntranceKind::Steered { listeners, stop } => {
            let Listeners { egress, ingress } = listeners;
            for (direction, sockets) in [(Direction::Egress, egress), (Direction::Ingress, ingress)]
            {
                let listens_at = sockets.iter().filter_map(|it| it.local_addr().ok());
                let door = Rc::new(Door {
                    worker: worker.clone(),
                    workload: workload.clone(),
                    direction,
                    listens_at: listens_at.collect(),
                    listener: None,
                    reporter: reporter(direction),
                });
                for socket in sockets {
                    if direction == Direction::Ingress
                        && let Err(error) = worker.hooks.borrow().permit(&socket)
                    {
                        error!(%error, workload = %workload.name, "a listener's answers stay guarded");
                    }
                    doors.spawn_local(accept(socket, door.clone(), stop.clone()));
                }
            }
        }
        EntranceKind::Named { listeners, permits } => {
            let names = Rc::new(Names::new(&workload.netns, permits));
            let direction = Direction::Egress;
            let reporter = reporter(direction);
            for (NamedSocket { listen, socket }, stop) in listeners {
                let names = names.clone();
                let door = Rc::new(Door {
                    worker: worker.clone(),
                    workload: workload.clone(),
                    direction,
                    listens_at: vec![listen.into()],
                    listener: Some(Rc::new(NamedListener { listen, names })),
                    reporter: reporter.clone(),
                });
                doors.spawn_local(accept(socket, door, stop));
            }
        }
    }
}

/// Accepts until it is to drain, then waits for the connections of this listener.
async fn accept(socket: StdTcpListener, door: Rc<Door>, mut stop: watch::Receiver<Stop>) {
    let mut connections = JoinSet::new();
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            error!(%error, workload = %door.workload.name, "a listener can't be watched");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop >= Stop::Draining) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn_local(serve(stream, door.clone()));
            }
            Err(error) if is_exhausted(&error) => {
                warn!(%error, "no connection can be accepted; raise the limit of open files");
                sleep(EXHAUSTED_PAUSE).await;
            }
            // A connection that was reset before it was accepted.
            Err(_) => {}
        }
    }
    drop(listener);
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        _ = stop.wait_for(|stop| *stop == Stop::Now) => connections.shutdown().await,
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}
