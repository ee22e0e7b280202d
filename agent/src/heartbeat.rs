//! The agent's sign of life: while it stands still, the hooks refuse every new connection.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ebpf_abi::HEARTBEAT_LIFETIME_NS;
use tracing::error;

use crate::socket_options::Heartbeat;

/// Beats on a thread of its own until stopped or dropped, and leaves the heart still.
#[derive(Debug)]
pub(crate) struct Beating {
    stop: Arc<AtomicBool>,
    leave: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Several beats may be missed on a busy machine before the agent counts as gone.
const INTERVAL: Duration = Duration::from_nanos(HEARTBEAT_LIFETIME_NS / 10);

impl Beating {
    /// Beats once at once, then regularly.
    pub(crate) fn start(heartbeat: Heartbeat) -> io::Result<Self> {
        heartbeat.beat()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let leave = Arc::new(AtomicBool::new(false));
        let left = leave.clone();
        let thread = thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || {
                loop {
                    thread::park_timeout(INTERVAL);
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(error) = heartbeat.beat() {
                        error!(%error, "the heartbeat can't be written: connections are refused");
                    }
                }
                if left.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = heartbeat.stop() {
                    error!(%error, "the heartbeat can't be stopped; it goes stale by itself");
                }
            })?;
        Ok(Self {
            stop,
            leave,
            thread: Some(thread),
        })
    }

    /// Stops, but not the heart: another agent keeps it going.
    pub(crate) fn leave(self) {
        self.leave.store(true, Ordering::Relaxed);
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
