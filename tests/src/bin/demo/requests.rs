//! Requests one after the other, for as long as something else is done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::stage::Stage;

/// How the requests went.
pub(crate) struct Served {
    /// Every one was answered whole.
    pub(crate) requests: u64,
    /// How long it took.
    pub(crate) took: Duration,
}

/// Has curl ask for the page again and again until `work` is done, and then once more. Fails where
/// one request did.
pub(crate) fn during<T>(stage: &Stage, work: impl FnOnce() -> Result<T>) -> Result<(T, Served)> {
    let started = Instant::now();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut requests = 0;
            loop {
                let is_last = done.load(Ordering::Relaxed);
                let curl = stage.curl()?.run()?;
                requests += 1;
                curl.expect(stage.nginx().page()).map_err(|error| {
                    error.context(format!("request {requests} was not answered"))
                })?;
                if is_last {
                    return anyhow::Ok(requests);
                }
            }
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let requests = asking.join().map_err(|_| anyhow!("a thread panicked"))??;
        let served = Served {
            requests,
            took: started.elapsed(),
        };
        ensure!(requests > 1, "no request was made meanwhile");
        Ok((worked?, served))
    })
}
