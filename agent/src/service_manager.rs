//! What the service manager is told (`sd_notify(3)`): that the agent serves, that it ends, that it is alive,
//! and what to keep for the next one. Without `NOTIFY_SOCKET` nobody is told anything.

use std::{
    env,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{fd::BorrowedFd, unix::ffi::OsStrExt as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use sd_notify::{NotifyState, notify, watchdog_enabled};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, warn};

use crate::bpf::monotonic_ns;

/// How long the service manager may take to have room for one more message.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much later than it should a worker may answer.
const SLACK: Duration = Duration::from_secs(1);

/// Whether an event loop turns: it answers when it is asked. A timer of its own would cost each of its
/// turns a look at the clock, which is 2 % of a request. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    asked: watch::Sender<()>,
    /// On the monotonic clock.
    answered: Arc<AtomicU64>,
}

impl Pulse {
    /// One that has answered just now.
    pub(crate) fn new() -> Self {
        Self {
            asked: watch::Sender::default(),
            answered: Arc::new(AtomicU64::new(monotonic_ns())),
        }
    }

    /// Answers until it is dropped; to be run on the event loop.
    pub(crate) async fn answer(self) {
        let mut asked = self.asked.subscribe();
        while asked.changed().await.is_ok() {
            self.answered.store(monotonic_ns(), Ordering::Relaxed);
        }
    }

    fn ask(&self) {
        self.asked.send_replace(());
    }

    fn age(&self) -> Duration {
        let last = self.answered.load(Ordering::Relaxed);
        Duration::from_nanos(monotonic_ns().saturating_sub(last))
    }
}

/// The agent serves.
pub(crate) fn ready() {
    tell(&[main_process(), NotifyState::Ready]);
}

/// This agent is the service's main process from now on. To be said before the one that was ends: that would be
/// the end of the service.
pub(crate) fn taken_over() {
    tell(&[main_process()]);
}

fn main_process() -> NotifyState<'static> {
    NotifyState::MainPid(std::process::id())
}

/// The agent ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that the agent is alive as long as its workers are, if the service manager wants to know; it
/// kills and restarts the agent when it does not hear of it. To be run on the agent's own event loop.
pub(crate) async fn watchdog(workers: Vec<Pulse>) {
    let Some(limit) = watchdog_enabled() else {
        return;
    };
    let mut tick = interval(limit / 3);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let stuck = workers
            .iter()
            .position(|pulse| pulse.age() > limit / 2 + SLACK);
        match stuck {
            None => tell(&[NotifyState::Watchdog]),
            Some(worker) => error!(worker, "a worker's event loop stands still"),
        }
        workers.iter().for_each(Pulse::ask);
    }
}

/// Gives the service manager a descriptor to keep, for the next agent to find it by this name.
///
/// # Errors
/// Where it does not take the message in time. Whether it has room, it does not say.
pub(crate) fn store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let Some(manager) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let message = format!("FDSTORE=1\nFDNAME={name}\n");
    let address = SocketAddrUnix::new(manager.as_bytes())?;
    let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    beside.push(SendAncillaryMessage::ScmRights(&descriptors));
    let parts = [IoSlice::new(message.as_bytes())];
    connect(&socket, &address)?;
    sendmsg(&socket, &parts, &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Lets the service manager close all that it keeps by this name.
pub(crate) fn remove(name: &str) {
    // A name with a line's end would be another message; the service manager has none of such a name.
    if name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        let name = format!("FDNAME={name}");
        tell(&[
            NotifyState::Custom("FDSTOREREMOVE=1"),
            NotifyState::Custom(&name),
        ]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        warn!(%error, "the service manager can't be told");
    }
}
