//! An agent that serves: hands over to another, or ends.

use std::{io, os::fd::OwnedFd, path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{task::AbortHandle, time::sleep};
use tracing::{info, warn};

use crate::{
    agent::AgentError,
    bpf::KernelReports,
    causes::with_causes,
    heartbeat::Beating,
    instance::InstanceLock,
    kernel_reports,
    reload::InForce,
    report::Telemetry,
    service_manager,
    serving::Serving,
    signals::Signals,
    take_over::{Item, Outcome, Predecessor, Request, Terms},
    worker::Stop,
};

/// How long connections may go on after the agent was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// What runs, to be ended in order.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) beating: Beating,
    pub(crate) serving: Serving,
    pub(crate) in_force: InForce,
    pub(crate) workers: Vec<JoinHandle<()>>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) reports: AbortHandle,
    /// Its sockets once more, and who answers there.
    pub(crate) admin: Option<(Vec<OwnedFd>, AbortHandle)>,
    pub(crate) lock: InstanceLock,
}

/// What became of an offer to hand over.
#[derive(Debug)]
pub(crate) enum Offered {
    /// This agent goes on.
    InVain,
    /// Another one serves.
    Taken {
        /// For how long this one may drain.
        drain: Duration,
    },
    /// This agent was told to stop meanwhile.
    Stopped,
}

impl Running {
    /// Once the agent before has ended, what served its sockets is taken away.
    pub(crate) fn steering_after(&self, before: Predecessor, own_cgroup: PathBuf) {
        let ended = tokio::task::spawn_blocking(|| before.wait());
        let pins = self.serving.steering().pins().clone();
        tokio::task::spawn_local(async move {
            let _ = ended.await;
            match pins.forget_other_agents(&own_cgroup) {
                Ok(()) => info!("the agent that ran before has ended"),
                Err(error) => {
                    let error = with_causes(&error);
                    warn!(
                        error,
                        "the program for the sockets of the agent before stays attached"
                    );
                }
            }
        });
    }

    /// Gives an heir what it needs, and waits until it serves. If it does not, this agent goes on as if
    /// nobody had asked.
    pub(crate) async fn offer(
        &mut self,
        request: Request,
        terms: &Terms,
        signals: &mut Signals,
    ) -> Offered {
        let Request {
            terms: of_heir,
            answer,
            outcome,
        } = request;
        let gifts = match terms.objection(&of_heir) {
            Some(objection) => Err(objection),
            None => self.share().map_err(|error| error.to_string()),
        };
        if let Err(why) = &gifts {
            warn!(why, "another agent may not take over");
        }
        let is_offered = gifts.is_ok();
        if is_offered {
            info!("another agent takes over");
            // There is one queue of them, and two that read it would disturb each other.
            self.reports.abort();
        }
        let _ = answer.send(gifts);
        if !is_offered {
            return Offered::InVain;
        }
        let outcome = tokio::select! {
            outcome = outcome => outcome,
            () = signals.stop() => return Offered::Stopped,
        };
        let why = match outcome {
            Ok(Outcome::Serving { drain, left }) => {
                self.stop_accepting();
                let _ = left.send(());
                return Offered::Taken { drain };
            }
            Ok(Outcome::Failed(why)) => why,
            Err(_) => "nobody knows what became of it".to_owned(),
        };
        warn!(why, "the other agent has not taken over; this one goes on");
        let resumed = self.serving.resume().and_then(|()| {
            self.reports = follow_reports(&self.serving, &self.telemetry)?;
            Ok(())
        });
        if let Err(error) = resumed {
            let error = with_causes(&error);
            warn!(
                error,
                "not everything is as it was before; restart this agent"
            );
        }
        Offered::InVain
    }

    fn share(&self) -> io::Result<Vec<(Item, OwnedFd)>> {
        let mut gifts = self.serving.share()?;
        gifts.push((Item::Lock, self.lock.share()?));
        for socket in self.admin.iter().flat_map(|(sockets, _)| sockets) {
            gifts.push((Item::Admin, socket.try_clone()?));
        }
        Ok(gifts)
    }

    /// From now on another agent does.
    fn stop_accepting(&mut self) {
        self.serving.leave();
        self.serving.stop(Stop::Draining);
        if let Some((_, admin)) = self.admin.take() {
            admin.abort();
        }
    }

    /// Lets the connections run until they end, or for this long.
    pub(crate) async fn leave(self, drain: Duration, signals: &mut Signals) {
        let Self {
            beating,
            mut serving,
            workers,
            lock,
            ..
        } = self;
        beating.leave();
        lock.leave();
        info!(
            seconds = drain.as_secs(),
            "another agent serves; this one drains. A signal ends it at once"
        );
        drained(&workers, &mut serving, drain, signals).await;
        info!("the agent has ended; another one serves its workloads");
    }

    /// Refuses what is new, lets run what runs for a while, then ends it.
    pub(crate) async fn end(self, signals: &mut Signals) {
        let Self {
            beating,
            mut serving,
            workers,
            lock: _lock,
            ..
        } = self;
        service_manager::stopping();
        drop(beating);
        serving.stop(Stop::Draining);
        info!(
            seconds = DRAIN.as_secs(),
            "draining; a second signal ends it at once"
        );
        drained(&workers, &mut serving, DRAIN, signals).await;
        info!("the agent has stopped; connections of its workloads stay refused");
    }
}

/// Passes on what the kernel side reports of the workloads that are served.
pub(crate) fn follow_reports(
    serving: &Serving,
    telemetry: &Arc<Telemetry>,
) -> Result<AbortHandle, AgentError> {
    let reports = KernelReports::open(serving.steering().pins())?;
    let follow = kernel_reports::follow(reports, serving.watch(), telemetry.clone());
    Ok(tokio::task::spawn_local(follow).abort_handle())
}

/// Until the last connection has ended; those that last longer, or until a signal, are reset.
async fn drained(
    workers: &[JoinHandle<()>],
    serving: &mut Serving,
    drain: Duration,
    signals: &mut Signals,
) {
    tokio::select! {
        () = finished(workers) => {}
        () = sleep(drain) => {}
        () = signals.stop() => {}
    }
    serving.stop(Stop::Now);
    finished(workers).await;
}

async fn finished(workers: &[JoinHandle<()>]) {
    while !workers.iter().all(JoinHandle::is_finished) {
        sleep(Duration::from_millis(20)).await;
    }
}
