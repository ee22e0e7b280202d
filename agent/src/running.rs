//! An agent that serves: hands over to another, or ends.

use std::{
    collections::HashSet,
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::{sync::oneshot, task::AbortHandle, time::sleep};
use tracing::{error, info, warn};

use crate::{
    agent_error::{AgentError, failed},
    bpf::version,
    causes::with_causes,
    fd_store::FdStore,
    heartbeat::Beating,
    inherited::Item,
    instance::InstanceLock,
    kernel_reports,
    loader::{Loader, LoaderError},
    reload::InForce,
    report::Telemetry,
    service_manager,
    serving::Serving,
    signals::Signals,
    take_over::{Outcome, Predecessor, Request, Terms},
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
        /// Ends when the service manager knows the other one.
        announced: oneshot::Receiver<()>,
    },
    /// This agent was told to stop meanwhile.
    Stopped,
    /// It has no loader any more.
    LoaderEnded,
}

impl Running {
    /// Once the agent before has ended, what served its sockets is taken away, but from those that this
    /// one has of it.
    pub(crate) fn steering_after(&self, before: Predecessor, own_cgroup: &Path) {
        let ended = tokio::task::spawn_blocking(|| before.wait());
        let steering = self.serving.steering().clone();
        let kept = self.agent_cgroups(own_cgroup);
        tokio::task::spawn_local(async move {
            let _ = ended.await;
            match kept.and_then(|kept| Ok(steering.forget_agents_but(kept)?)) {
                Ok(()) => info!("the agent that ran before has ended"),
                Err(error) => stays_attached(&error),
            }
        });
    }

    /// No agent ran before, or none that still does: what served its sockets is taken away, as above.
    pub(crate) fn steer_alone(&self, own_cgroup: &Path) {
        let steering = self.serving.steering();
        let kept = self.agent_cgroups(own_cgroup);
        if let Err(error) = kept.and_then(|kept| Ok(steering.forget_agents_but(kept)?)) {
            stays_attached(&error);
        }
    }

    /// Ends what was there before the agent, goes past it and may not go on.
    pub(crate) fn close_older(&mut self) {
        if let Err(error) = self.serving.close_older() {
            let error = with_causes(&error);
            error!(
                error,
                "connections that are older than the agent can't be told from its own, and go on"
            );
        }
    }

    /// Lets the service manager have the listeners, for an agent after this one.
    pub(crate) fn keep_in(&self, store: &mut FdStore) {
        match self.serving.share() {
            Ok(served) => store.keep(&served, version()),
            Err(error) => warn!(
                %error,
                "the service manager does not get the listeners: should the agent crash, connections are \
                 refused until it is back"
            ),
        }
    }

    /// Where the sockets are from that this agent accepts.
    fn agent_cgroups(&self, own: &Path) -> Result<HashSet<u64>, AgentError> {
        let listeners = self.serving.listener_cgroups();
        let mut cgroups = listeners.map_err(failed("asking where the listeners are from"))?;
        let own = fs::metadata(own).map_err(failed("finding the agent's cgroup"))?;
        cgroups.insert(own.ino());
        Ok(cgroups)
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
            () = self.loader().ended() => return Offered::LoaderEnded,
        };
        let why = match outcome {
            Ok(Outcome::Serving {
                drain,
                left,
                announced,
            }) => {
                self.stop_accepting();
                let _ = left.send(());
                return Offered::Taken { drain, announced };
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

    /// Lets the connections run until they end, or for this long, and until the service manager knows of the
    /// other agent.
    pub(crate) async fn leave(
        self,
        drain: Duration,
        announced: oneshot::Receiver<()>,
        signals: &mut Signals,
    ) {
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
        let _ = announced.await;
        info!("the agent has ended; another one serves its workloads");
    }

    pub(crate) fn loader(&self) -> &Loader {
        self.serving.steering().loader()
    }

    /// Nothing can be told the kernel side any more: ends as if told to, and says why.
    pub(crate) async fn without_loader(self, signals: &mut Signals) -> Result<(), AgentError> {
        error!("the loader has ended: nothing can be told the kernel side any more");
        self.end(signals).await;
        Err(LoaderError::Gone(io::ErrorKind::BrokenPipe.into()).into())
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

fn stays_attached(error: &AgentError) {
    let error = with_causes(error);
    warn!(
        error,
        "the program for the sockets of an agent before stays attached"
    );
}

/// Passes on what the kernel side reports of the workloads that are served.
pub(crate) fn follow_reports(
    serving: &Serving,
    telemetry: &Arc<Telemetry>,
) -> Result<AbortHandle, AgentError> {
    let steering = serving.steering();
    let refusals = steering.refusals()?;
    let follow = kernel_reports::follow(
        steering.clone(),
        refusals,
        serving.watch(),
        telemetry.clone(),
    );
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
