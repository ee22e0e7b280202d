//! What the service manager is told (`sd_notify(3)`): that the agent serves, that it ends, and that it is
//! alive. Without `NOTIFY_SOCKET` nobody is told anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, warn};

use crate::bpf::monotonic_ns;

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

/// The agent serves. An heir is the service's main process from now on.
pub(crate) fn ready() {
    let own = std::process::id();
    tell(&[NotifyState::MainPid(own), NotifyState::Ready]);
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

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        warn!(%error, "the service manager can't be told");
    }
}
