//! Another configuration while the agent runs: read on SIGHUP and when its file changes, put in force
//! as a whole or not at all.

use std::{
    collections::BTreeSet, fs, io, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc,
    time::Duration,
};

use serde_json::Value;
use thiserror::Error;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info};

use crate::{
    agent_error::AgentError,
    causes::with_causes,
    config::{Config, ConfigError, ConfigOrigin, Workload as WorkloadConfig},
    metrics::{Metrics, ReloadResult},
    policy::WorkloadName,
    readiness::ReadinessBoard,
    rules::Rules,
    serving::{Candidate, Opened, Served, Serving},
    signals::{Heard, Signals},
};

/// How often the file is looked at. What is there must be the same twice, so that a file that is
/// still being written is not read.
const LOOK: Duration = Duration::from_secs(1);

/// Why a new configuration is not in force. The one before is.
#[derive(Debug, Error)]
pub(crate) enum ReloadError {
    /// It has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It changes what is laid down at the start.
    #[error("{} can't change while the agent runs; restart it for that", list(.0))]
    NeedsRestart(Vec<String>),
    /// The Coordinator is asked for a set of identities that is laid down at the start.
    #[error(
        "workloads with certificates from the Coordinator can't come or go while the agent runs \
         ({0} would); restart it for that"
    )]
    Enrolled(WorkloadName),
    /// A workload can't be served so.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The task that reads it died.
    #[error("reading it: {0}")]
    Read(io::Error),
}

fn list(keys: &[String]) -> String {
    keys.join(", ")
}

/// What calls for a new configuration.
#[derive(Debug)]
pub(crate) struct Changes {
    origin: ConfigOrigin,
    file: Option<PathBuf>,
    /// What was there when it was read.
    read: Option<Stamp>,
    /// What was there at the last look.
    seen: Option<Stamp>,
}

/// What tells one content of a file from another, by inode also where a link to it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl Changes {
    /// To be made before the configuration is read for the first time.
    pub(crate) fn new(origin: ConfigOrigin) -> Self {
        let file = origin.file();
        let read = file.as_ref().and_then(Stamp::of);
        Self {
            origin,
            file,
            read,
            seen: read,
        }
    }

    /// Waits for a signal or another file. What it has waited for is not lost if it is dropped.
    pub(crate) async fn next(&mut self, signals: &mut Signals) -> Heard {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = signals.next() => return heard,
                _ = look.tick(), if self.file.is_some() => {
                    if self.has_changed() {
                        return Heard::Reload;
                    }
                }
            }
        }
    }

    /// Reads the configuration.
    pub(crate) async fn read(&mut self) -> Result<Box<Config>, ReloadError> {
        // Before it is read: what changes meanwhile is seen at the next look.
        self.read = self.file.as_ref().and_then(Stamp::of);
        self.seen = self.read;
        let origin = self.origin.clone();
        let read = spawn_blocking(move || origin.load()).await;
        match read {
            Ok(config) => config.map(Box::new).map_err(ReloadError::Config),
            Err(error) => Err(ReloadError::Read(io::Error::other(error))),
        }
    }

    fn has_changed(&mut self) -> bool {
        let now = self.file.as_ref().and_then(Stamp::of);
        let settled = now == self.seen;
        self.seen = now;
        settled && now != self.read
    }
}

impl Stamp {
    fn of(path: &PathBuf) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// The configuration in force.
#[derive(Debug)]
pub(crate) struct InForce {
    config: Config,
    generation: u64,
    /// As `/config` shows it.
    json: watch::Sender<Arc<str>>,
    board: ReadinessBoard,
    metrics: Arc<Metrics>,
}

/// What a new configuration changed.
#[derive(Debug, Default)]
struct Changed {
    added: usize,
    removed: usize,
    replaced: usize,
    /// Workloads with other rules.
    rules: usize,
    /// Connections that had to end.
    closed: usize,
    /// What of it does not work, though it is in force.
    failed: Vec<String>,
}

impl Changed {
    fn note(&mut self, workload: &WorkloadName, closed: Result<usize, AgentError>) {
        match closed {
            Ok(closed) => self.closed += closed,
            Err(error) => self
                .failed
                .push(format!("workload {workload}: {}", with_causes(&error))),
        }
    }
}

impl InForce {
    /// The configuration that the agent was started with.
    ///
    /// # Errors
    /// Where it can't be written as JSON.
    pub(crate) fn first(
        config: Config,
        board: ReadinessBoard,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let json = watch::Sender::new(json(&config)?);
        let first = Self {
            config,
            generation: 1,
            json,
            board,
            metrics,
        };
        first.board.set_configuration(first.generation, None);
        first.metrics.set_config_generation(first.generation);
        Ok(first)
    }

    /// As `/config` shows it, now and later.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<str>> {
        self.json.subscribe()
    }

    /// Puts what was read in force, or says why not.
    pub(crate) fn take(&mut self, read: Result<Box<Config>, ReloadError>, serving: &mut Serving) {
        let applied = read.and_then(|config| self.apply(*config, serving));
        let refused = match applied {
            Ok(None) => {
                info!("the configuration is the same as before");
                None
            }
            Ok(Some(changed)) => {
                let Changed {
                    added,
                    removed,
                    replaced,
                    rules,
                    closed,
                    failed,
                } = changed;
                info!(
                    generation = self.generation,
                    added, removed, replaced, rules, closed, "a new configuration is in force"
                );
                (!failed.is_empty()).then(|| {
                    let failed = failed.join("; ");
                    error!(failed, "not all of the new configuration works");
                    format!("it is in force, but not all of it works: {failed}")
                })
            }
            Err(error) => {
                let error = with_causes(&error);
                error!(
                    generation = self.generation,
                    error, "the new configuration is refused; the one before stays in force"
                );
                Some(error)
            }
        };
        self.metrics.config_reloaded(match refused {
            None => ReloadResult::Loaded,
            Some(_) => ReloadResult::Refused,
        });
        self.metrics.set_config_generation(self.generation);
        self.board.set_configuration(self.generation, refused);
    }

    /// First all that can fail, then all that can be seen. `None` where nothing differs.
    fn apply(
        &mut self,
        new: Config,
        serving: &mut Serving,
    ) -> Result<Option<Changed>, ReloadError> {
        let new_json = json(&new).map_err(ReloadError::Read)?;
        let plan = Plan::make(&self.config, &new, serving)?;
        if plan.is_empty() && *new_json == **self.json.borrow() {
            return Ok(None);
        }
        let changed = plan.carry_out(serving)?;
        self.config = new;
        self.generation += 1;
        self.json.send_replace(new_json);
        Ok(Some(changed))
    }
}

/// What is to be done, all of it possible as far as could be told.
struct Plan {
    /// With the rules before, should they have to be put back.
    rules: Vec<NewRules>,
    added: Vec<Candidate>,
    replaced: Vec<Candidate>,
    removed: Vec<WorkloadName>,
}

struct NewRules {
    name: WorkloadName,
    rules: Rules,
    /// Listeners that the rules before had not.
    opened: Opened,
}

impl Plan {
    fn make(old: &Config, new: &Config, serving: &mut Serving) -> Result<Self, ReloadError> {
        let differing = differing_settings(old, new)?;
        if !differing.is_empty() {
            return Err(ReloadError::NeedsRestart(differing));
        }
        let mut plan = Self {
            rules: Vec::new(),
            added: Vec::new(),
            replaced: Vec::new(),
            removed: Vec::new(),
        };
        let mut slots = Vec::new();
        for workload in &new.workloads {
            let before = old.workloads.iter().find(|it| it.name == workload.name);
            let candidate = Candidate::find(workload, &mut slots)?;
            match before {
                None => plan.added.push(candidate),
                Some(before) if !is_same(before, workload, &candidate, serving)? => {
                    plan.replaced.push(candidate);
                }
                Some(before) if value(before)? != value(workload)? => {
                    plan.rules
                        .push(NewRules::prepare(workload, before, serving)?);
                }
                Some(_) => {}
            }
        }
        plan.removed = old
            .workloads
            .iter()
            .map(|workload| &workload.name)
            .filter(|name| !new.workloads.iter().any(|it| it.name == **name))
            .cloned()
            .collect();
        match plan.comes_or_goes() {
            Some(name) if new.coordinator.is_some() => Err(ReloadError::Enrolled(name)),
            _ => Ok(plan),
        }
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.comes_or_goes().is_none()
    }

    /// A workload that is served from now on, or no longer.
    fn comes_or_goes(&self) -> Option<WorkloadName> {
        let candidates = self.added.iter().chain(&self.replaced);
        let mut coming = candidates.map(|candidate| candidate.workload().name.clone());
        coming.next().or_else(|| self.removed.first().cloned())
    }

    fn carry_out(self, serving: &mut Serving) -> Result<Changed, ReloadError> {
        let Self {
            rules,
            added,
            replaced,
            removed,
        } = self;
        let mut changed = Changed {
            added: added.len(),
            removed: removed.len(),
            replaced: replaced.len(),
            rules: rules.len(),
            closed: 0,
            failed: Vec::new(),
        };
        let names: Vec<_> = added.iter().map(|it| it.workload().name.clone()).collect();
        add_all(added, serving)?;
        if let Err(error) = set_ports(&rules, serving) {
            for name in &names {
                serving.take_back(name);
            }
            return Err(error);
        }
        // From here on the new configuration is in force, whatever fails: going back could fail as
        // well. What fails is refused and told.
        for NewRules {
            name,
            rules,
            opened,
        } in rules
        {
            let closed = serving.change(&name, &rules, opened);
            changed.note(&name, closed);
        }
        for name in &removed {
            changed.closed += serving.retire(name);
        }
        for candidate in replaced {
            let name = candidate.workload().name.clone();
            let closed = serving.replace(candidate);
            changed.note(&name, closed);
        }
        if let Err(error) = serving.close_older() {
            changed.failed.push(with_causes(&error));
        }
        if changed.removed + changed.replaced > 0 {
            serving.name_strangers();
        }
        Ok(changed)
    }
}

/// All or none.
fn add_all(added: Vec<Candidate>, serving: &mut Serving) -> Result<(), ReloadError> {
    let mut names = Vec::new();
    for candidate in added {
        names.push(candidate.workload().name.clone());
        if let Err(error) = serving.add(candidate) {
            names.pop();
            for name in &names {
                serving.take_back(name);
            }
            return Err(error.into());
        }
    }
    Ok(())
}

/// All or none.
fn set_ports(rules: &[NewRules], serving: &Serving) -> Result<(), ReloadError> {
    for (
        index,
        NewRules {
            name, rules: new, ..
        },
    ) in rules.iter().enumerate()
    {
        let Some(served) = serving.find(name) else {
            continue;
        };
        if let Err(error) = serving.set_ports(served.workload(), new) {
            for NewRules { name, .. } in &rules[..=index] {
                let workload = serving.find(name).map(Served::workload);
                if let Some(workload) = workload
                    && let Some(before) = workload.rules.get()
                    && let Err(error) = serving.set_ports(workload, &before)
                {
                    let error = with_causes(&error);
                    error!(workload = %name, error, "the ports of its rules can't be put back");
                }
            }
            return Err(error.into());
        }
    }
    Ok(())
}

impl NewRules {
    fn prepare(
        workload: &WorkloadConfig,
        before: &WorkloadConfig,
        serving: &mut Serving,
    ) -> Result<Self, ReloadError> {
        let had: BTreeSet<_> = before.listeners.iter().map(|it| it.listen).collect();
        let new = workload.listeners.iter().map(|it| it.listen);
        let new: Vec<_> = new.filter(|listen| !had.contains(listen)).collect();
        let served = serving.find(&workload.name);
        let mut rules = Rules::of(workload);
        let opened = match served.map(|served| served.workload().clone()) {
            Some(served) => {
                rules.overhearing = serving.overhear(&served, &rules.egress)?;
                serving.open(&served, &new)?
            }
            None => Opened::default(),
        };
        Ok(Self {
            name: workload.name.clone(),
            rules,
            opened,
        })
    }
}

/// Whether the workload is the same group of processes with the same certificates as before. Its
/// cgroup or namespace may have been made anew under the old name.
fn is_same(
    before: &WorkloadConfig,
    now: &WorkloadConfig,
    candidate: &Candidate,
    serving: &Serving,
) -> Result<bool, ReloadError> {
    let found = candidate.workload();
    let is_found = serving.find(&now.name).is_some_and(|served| {
        let served = served.workload();
        served.id == found.id
            && served.netns_cookie == found.netns_cookie
            && served.tenancy == found.tenancy
            && served.cgroup == found.cgroup
    });
    let certificates = |workload: &WorkloadConfig| value(&workload.certificates);
    Ok(is_found && certificates(before)? == certificates(now)?)
}

/// The keys beside the workloads that differ.
fn differing_settings(old: &Config, new: &Config) -> Result<Vec<String>, ReloadError> {
    let (old, new) = (value(old)?, value(new)?);
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Ok(Vec::new());
    };
    Ok(old
        .into_iter()
        .filter(|(key, value)| key != "workloads" && new.get(key) != Some(value))
        .map(|(key, _)| key)
        .collect())
}

fn value(of: &impl serde::Serialize) -> Result<Value, ReloadError> {
    serde_json::to_value(of).map_err(|error| ReloadError::Read(error.into()))
}

fn json(config: &Config) -> io::Result<Arc<str>> {
    Ok(serde_json::to_string_pretty(config)?.into())
}
