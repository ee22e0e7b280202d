//! The workloads that are served: they come, change their rules and go, each without the others.

mod candidate;
mod hooks;
mod listeners;

use std::{
    cell::RefCell,
    net::TcpListener,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ebpf_abi::Workload as WorkloadState;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::sleep,
};
use tracing::{error, warn};

use crate::{
    agent_error::{AgentError, failed},
    causes::with_causes,
    connection::CloseCause,
    credentials::CredentialKeeper,
    inherited::{Inherited, Purpose},
    interfaces::InterfaceWatch,
    loader::{ControlMaps, Steering},
    names::{NameFollower, Names, Overhearing},
    netns::Interfaces,
    past_agent::{self, Unwanted},
    policy::{EgressPolicy, UdpMode, WorkloadName},
    readiness::ReadinessBoard,
    registry::{Connection, Registry},
    report::Telemetry,
    rules::{Rules, close_objected},
    worker::{Entrance, EntranceKind, Stop},
    workload::{Telling, Workload},
};

pub(crate) use candidate::Candidate;
use hooks::{publish, seals_a_port, set_listener, set_ports};
use listeners::Named;
pub(crate) use listeners::Opened;

/// How long connections of a workload that has gone may take to end by themselves.
const LAST_MOMENTS: Duration = Duration::from_secs(5);

/// All workloads, and what serving one takes.
#[derive(Debug)]
pub(crate) struct Serving {
    steering: Steering,
    /// One set of descriptors, however many workloads there are.
    maps: Rc<RefCell<ControlMaps>>,
    workers: Vec<mpsc::UnboundedSender<Entrance>>,
    registry: Arc<Registry>,
    telemetry: Arc<Telemetry>,
    board: ReadinessBoard,
    served: Vec<Served>,
    inherited: Inherited,
    /// Whether the maps were made at this start.
    has_new_maps: bool,
    known: watch::Sender<Vec<Arc<Workload>>>,
}

/// One workload, as it is served.
#[derive(Debug)]
pub(crate) struct Served {
    workload: Arc<Workload>,
    stop: watch::Sender<Stop>,
    listeners: Vec<Named>,
    tasks: [AbortHandle; 3],
    /// Its listeners once more, for an agent that takes over: by worker, but for those that the
    /// configuration names.
    sockets: Vec<(usize, Purpose, TcpListener)>,
    /// What the kernel side had known of it before.
    before: Before,
}

/// What the kernel side knew of a workload before this agent served it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Nothing, or its programs were attached over other maps: the guard has no mark of any connection.
    Nothing,
    /// An agent has served it, under rules that are not known.
    Marks,
    /// This agent has looked at the connections of before.
    LookedAt,
}

impl Served {
    /// Whose.
    pub(crate) fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }
}

impl Serving {
    /// Nothing is served yet; what is `inherited` need not be opened. What is sent to `workers` is served by them once they run.
    pub(crate) fn new(
        steering: Steering,
        workers: Vec<mpsc::UnboundedSender<Entrance>>,
        registry: Arc<Registry>,
        telemetry: Arc<Telemetry>,
        board: ReadinessBoard,
        inherited: Inherited,
    ) -> Self {
        let maps = ControlMaps::new(steering.loader().clone());
        Self {
            has_new_maps: steering.has_new_maps(),
            steering,
            maps: Rc::new(RefCell::new(maps)),
            inherited,
            workers,
            registry,
            telemetry,
            board,
            served: Vec::new(),
            known: watch::Sender::default(),
        }
    }

    /// The kernel side.
    pub(crate) fn steering(&self) -> &Steering {
        &self.steering
    }

    /// The workloads, now and later.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<Arc<Workload>>> {
        self.known.subscribe()
    }

    /// The one with this name.
    pub(crate) fn find(&self, name: &WorkloadName) -> Option<&Served> {
        self.served.iter().find(|it| it.workload.name == *name)
    }

    /// Serves one more: listeners, then maps, then links.
    ///
    /// # Errors
    /// Then nothing of it is left, but what an earlier agent had attached.
    pub(crate) fn add(&mut self, candidate: Candidate) -> Result<(), AgentError> {
        let owner = candidate.workload.owner();
        let was_attached = self.steering.is_attached(owner.clone())?;
        let workload = candidate.workload.clone();
        match self.start(candidate) {
            Ok(served) => {
                self.served.push(served);
                self.tell_known();
                Ok(())
            }
            Err(error) => {
                self.board.remove(&workload.name);
                let forgotten = self.maps.borrow_mut().forget(workload.id);
                let released = if was_attached {
                    Ok(())
                } else {
                    self.steering.release_workload(owner)
                };
                if let Err(error) = forgotten.and(released) {
                    let error = with_causes(&error);
                    warn!(workload = %workload.name, error, "not all of it could be taken back");
                }
                Err(error)
            }
        }
    }

    fn start(&mut self, candidate: Candidate) -> Result<Served, AgentError> {
        let Candidate {
            workload,
            source,
            sender,
        } = candidate;
        let rules = workload.rules.get();
        let rules = rules.as_deref();
        let named: Vec<_> = rules
            .into_iter()
            .flat_map(|rules| &*rules.listeners)
            .map(|listener| listener.listen)
            .collect();
        let opened = self.open(&workload, &named)?;
        let (stop, stopped) = watch::channel(Stop::Running);
        let before = if self.has_new_maps || !self.steering.is_attached(workload.owner())? {
            Before::Nothing
        } else {
            Before::Marks
        };
        let shared = self.maps.clone();
        let mut maps = shared.borrow_mut();
        let mut state = WorkloadState {
            netns: workload.netns_cookie,
            workers: self.workers.len() as u32,
            ..WorkloadState::default()
        };
        let mut entrances = Vec::new();
        let mut sockets = Vec::new();
        for index in 0..self.workers.len() {
            let listeners = self
                .listeners(&workload, index)
                .map_err(failed("listening in a workload's namespace"))?;
            let kept = listeners.share().map_err(failed("keeping a listener"))?;
            sockets.extend(kept.into_iter().map(|(purpose, it)| (index, purpose, it)));
            publish(&mut maps, &workload, index, &listeners, &mut state)?;
            let stop = stopped.clone();
            entrances.push(Entrance {
                workload: workload.clone(),
                kind: EntranceKind::Steered { listeners, stop },
            });
        }
        let mut keeper = CredentialKeeper::new(
            workload.clone(),
            source,
            sender,
            self.registry.clone(),
            state,
            self.telemetry.workload(&workload.name),
            self.board.clone(),
        );
        keeper.look(&mut maps, SystemTime::now());
        if let Some(rules) = rules {
            set_ports(&mut maps, &workload, rules)?;
        }
        let mut interfaces = InterfaceWatch::new(workload.clone(), &mut maps)?;
        let programs = self.steering.attach_workload(&workload)?;
        interfaces.guard(programs, &mut maps)?;
        if let Some(rules) = rules {
            let overhearing = self.overhear(&workload, &rules.egress)?;
            workload.rules.update(|rules| {
                Some(Rules {
                    overhearing,
                    ..rules.clone()
                })
            });
        }

        let follow = interfaces.follow(shared.clone());
        let follower = NameFollower::new(
            workload.clone(),
            Names::new(&workload.netns, self.steering.permits()),
            self.registry.clone(),
            self.telemetry.workload(&workload.name).names().clone(),
        );
        let tasks = [
            tokio::task::spawn_local(follower.follow()).abort_handle(),
            tokio::task::spawn_local(follow).abort_handle(),
            tokio::task::spawn_local(keeper.keep(shared.clone())).abort_handle(),
        ];
        for (worker, entrance) in self.workers.iter().zip(entrances) {
            // It hears as long as there is somebody to tell it anything.
            let _ = worker.send(entrance);
        }
        let mut served = Served {
            workload,
            stop,
            listeners: Vec::new(),
            tasks,
            sockets,
            before,
        };
        self.accept_from(&mut served, opened)?;
        Ok(served)
    }

    /// What is to be overheard of a workload under these rules, if anything: from now on, or what is
    /// overheard already.
    pub(crate) fn overhear(
        &self,
        workload: &Arc<Workload>,
        egress: &Arc<EgressPolicy>,
    ) -> Result<Option<Arc<Overhearing>>, AgentError> {
        if !egress.has_wildcards() {
            return Ok(None);
        }
        let before = workload.rules.get().and_then(|it| it.overhearing.clone());
        if let Some(before) = before
            && before.serves(egress)
        {
            return Ok(Some(before));
        }
        let answers = self.steering.overhear(workload)?;
        Ok(Some(Overhearing::start(
            workload,
            egress.clone(),
            answers,
            self.registry.clone(),
            self.telemetry.workload(&workload.name).names().clone(),
        )))
    }

    /// Another agent has not taken over after all: the kernel side is told everything anew.
    pub(crate) fn resume(&self) -> Result<(), AgentError> {
        let mut maps = self.maps.borrow_mut();
        let served: Vec<_> = self.served.iter().map(|it| it.workload.id).collect();
        maps.forget_all_but(&served)?;
        for Served {
            workload, sockets, ..
        } in &self.served
        {
            for (worker, purpose, socket) in sockets {
                if *purpose == Purpose::Ingress {
                    set_listener(&mut maps, workload, *worker, socket)?;
                }
            }
            if let Some(rules) = workload.rules.get() {
                set_ports(&mut maps, workload, &rules)?;
            }
            workload.telling.send_replace(Telling::Anew);
        }
        Ok(())
    }

    /// Another agent serves the workloads and tells the kernel side of them.
    pub(crate) fn leave(&self) {
        for served in &self.served {
            served.workload.telling.send_replace(Telling::Others);
        }
    }

    /// Tells the hooks which ports of a workload are steered by these rules.
    pub(crate) fn set_ports(&self, workload: &Workload, rules: &Rules) -> Result<(), AgentError> {
        set_ports(&mut self.maps.borrow_mut(), workload, rules)
    }

    /// Puts other rules in force, and ends what they forbid; how many connections that were.
    /// `opened` are the listeners that they have and those before had not.
    pub(crate) fn change(
        &mut self,
        name: &WorkloadName,
        rules: &Rules,
        opened: Opened,
    ) -> Result<usize, AgentError> {
        let Some(index) = self.served.iter().position(|it| it.workload.name == *name) else {
            return Ok(0);
        };
        let agents = self.steering.agent_cgroups()?;
        let mut served = self.served.swap_remove(index);
        let mut before = None;
        let now = served.workload.rules.update(|known| {
            before = Some(known.clone());
            let names = known.names.under(&known.egress, &rules.egress);
            Some(Rules {
                names: Arc::new(names),
                ..rules.clone()
            })
        });
        let mut closed = now.map_or(0, |now| now.enforce(name, &self.registry));
        if before.is_some_and(|before| seals_a_port(&before, rules)) {
            closed += past_agent::close(&served.workload, &agents, Unwanted::NotInClear(rules));
        }
        served.listeners.retain(|named| {
            let stays = rules.listener(named.listen).is_some();
            if !stays {
                end(named.stop.clone());
            }
            stays
        });
        let accepted = self.accept_from(&mut served, opened);
        self.served.push(served);
        accepted.map(|()| closed)
    }

    /// Serves another in the place of that with its name; how many connections had to end. In between
    /// its connections are refused.
    ///
    /// # Errors
    /// Where it can't be served. Neither is then, and the new one is refused: it is configured, and may
    /// not talk in clear.
    pub(crate) fn replace(&mut self, candidate: Candidate) -> Result<usize, AgentError> {
        let (id, owner) = (candidate.workload.id, candidate.workload.owner());
        let before = self.find(&candidate.workload.name);
        let before = before.map(|served| (served.workload.id, served.workload.owner()));
        let workload = candidate.workload.clone();
        let closed = self.retire(&workload.name);
        let served = self.start(candidate).inspect_err(|error| {
            self.board.set_unserved(&workload.name, with_causes(error));
            if let Err(error) = self.shut(&workload) {
                let error = with_causes(&error);
                error!(workload = %workload.name, error, "it can't be refused either: stop it");
            }
        })?;
        self.served.push(served);
        self.tell_known();
        // Programs of the same cgroup that know another namespace.
        if let Some((_, before)) = before.filter(|(of, before)| *of == id && *before != owner) {
            self.steering.release_workload(before)?;
        }
        Ok(closed)
    }

    /// Refuses everything of a workload: its programs are attached, and know nothing of it.
    fn shut(&self, workload: &Workload) -> Result<(), AgentError> {
        let mut maps = self.maps.borrow_mut();
        maps.forget(workload.id)?;
        if let Some(rules) = workload.rules.get() {
            maps.set_udp_denied(workload.id, rules.udp == UdpMode::Deny)?;
        }
        let programs = self.steering.attach_workload(workload)?;
        let interfaces = workload.netns.run(Interfaces::list);
        let interfaces = interfaces.map_err(failed("reading a workload's interfaces"))?;
        Ok(programs.guard_devices(&workload.netns, &interfaces.devices)?)
    }

    /// Undoes [`Self::add`]: as if the workload had never been configured.
    pub(crate) fn take_back(&mut self, name: &WorkloadName) {
        let Some(owner) = self.find(name).map(|served| served.workload.owner()) else {
            return;
        };
        self.retire(name);
        if let Err(error) = self.steering.release_workload(owner) {
            let error = with_causes(&error);
            warn!(workload = %name, error, "its programs stay attached; it is refused until --detach");
        }
    }

    /// Serves a workload no longer: its connections end, new ones are refused; how many ended. Its
    /// programs stay attached as long as its cgroup exists, so that nothing of it goes out past an
    /// agent.
    pub(crate) fn retire(&mut self, name: &WorkloadName) -> usize {
        let Some(index) = self.served.iter().position(|it| it.workload.name == *name) else {
            return 0;
        };
        let Served {
            workload,
            stop,
            listeners,
            tasks,
            ..
        } = self.served.swap_remove(index);
        workload.rules.remove();
        for task in tasks {
            task.abort();
        }
        self.board.remove(name);
        let mut maps = self.maps.borrow_mut();
        let forgotten = maps.forget(workload.id);
        let released = if workload.cgroup.exists() {
            Ok(())
        } else {
            self.steering
                .release_workload(workload.owner())
                .and_then(|()| maps.forget_released(workload.id))
        };
        drop(maps);
        if let Err(error) = forgotten.and(released) {
            let error = with_causes(&error);
            warn!(workload = %name, error, "not all of it could be taken back");
        }
        let removed = |_: &Connection| Some(CloseCause::WorkloadRemoved);
        let closed = close_objected(&self.registry, name, removed);
        end(stop);
        for Named { stop, .. } in listeners {
            end(stop);
        }
        self.tell_known();
        closed
    }

    /// Ends connections that were there before the workloads were served, go past the agent, and may not
    /// go on. What is served later is to be looked at again.
    pub(crate) fn close_older(&mut self) -> Result<(), AgentError> {
        let agents = self.steering.agent_cgroups()?;
        for served in &mut self.served {
            let workload = &served.workload;
            match (served.before, workload.rules.get()) {
                (Before::LookedAt, _) | (_, None) => continue,
                (Before::Nothing, _) => {
                    past_agent::close(workload, &agents, Unwanted::OlderThanGuard)
                }
                (Before::Marks, Some(rules)) => {
                    past_agent::close(workload, &agents, Unwanted::NotInClear(&rules))
                }
            };
            served.before = Before::LookedAt;
        }
        Ok(())
    }

    /// The workloads of the start are served: what was inherited and is of use is in use by now. Closes the
    /// rest, and with it what waits there.
    pub(crate) fn has_started(&mut self) {
        self.inherited = Inherited::default();
        self.has_new_maps = false;
    }

    /// Says which workloads were served before and are not any more. Their connections stay refused.
    pub(crate) fn name_strangers(&self) {
        let owners = self.served.iter().map(|it| it.workload.owner());
        let strangers = match self.steering.strangers(owners.collect()) {
            Ok(strangers) => strangers,
            Err(error) => {
                warn!(%error, "whether others were served before can't be told");
                return;
            }
        };
        for stranger in strangers {
            warn!(
                pins = stranger,
                "a workload served before is not configured any more; its connections stay \
                 refused until --detach"
            );
        }
    }

    fn tell_known(&self) {
        let workloads = self.served.iter().map(|it| it.workload.clone());
        self.known.send_replace(workloads.collect());
    }

    /// Tells all listeners how far their end has come. Nothing more can be served then, and workers
    /// end with their last connection.
    pub(crate) fn stop(&mut self, stop: Stop) {
        self.workers.clear();
        for served in &self.served {
            served.stop.send_replace(stop);
            for named in &served.listeners {
                named.stop.send_replace(stop);
            }
        }
    }
}

/// Ends a listener: nothing more is accepted, and what runs has a moment to end by itself.
fn end(stop: watch::Sender<Stop>) {
    stop.send_replace(Stop::Draining);
    tokio::task::spawn_local(async move {
        sleep(LAST_MOMENTS).await;
        stop.send_replace(Stop::Now);
    });
}
