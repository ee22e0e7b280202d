//! Overhears what the programs of one workload are told of names, for its rules by wildcards.
//!
//! A program connects after it has its answer, and the kernel side has put the answer in the ring before
//! the program can have it. Whoever decides of a connection reads the ring first, under one lock; so the
//! answer that the connection goes by has been taken.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;
use tracing::{debug, error, warn};

use super::{
    answer::OverheardAnswer,
    heard::{HeardNames, Hearsay},
};
use crate::{
    bpf::CaughtUp, causes::with_causes, loader::DnsAnswers, metrics::NameMetrics,
    policy::EgressPolicy, readable::readable, registry::Registry, rules::close_objected,
    workload::Workload,
};

/// How often it is said that answers are lost, as long as they are.
const COMPLAINT_PAUSE: Duration = Duration::from_mins(1);

/// What is overheard of one workload, under one set of names in its rules. The programs at its cgroup go
/// when this drops.
#[derive(Debug)]
pub(crate) struct Overhearing {
    workload: Weak<Workload>,
    /// Whose names sort what is heard.
    rules: Arc<EgressPolicy>,
    registry: Arc<Registry>,
    metrics: NameMetrics,
    known: Mutex<Known>,
    follower: AbortHandle,
}

#[derive(Debug)]
struct Known {
    answers: DnsAnswers,
    names: HeardNames,
    complained: Option<Instant>,
}

impl Overhearing {
    /// Begins with what comes from now on. To be called on the control thread, which reads what no
    /// connection asks for.
    pub(crate) fn start(
        workload: &Arc<Workload>,
        rules: Arc<EgressPolicy>,
        answers: DnsAnswers,
        registry: Arc<Registry>,
        metrics: NameMetrics,
    ) -> Arc<Self> {
        let events = answers.events().and_then(readable);
        Arc::new_cyclic(|this: &Weak<Self>| {
            let this = this.clone();
            let name = workload.name.clone();
            let follower = tokio::task::spawn_local(async move {
                let events = match events {
                    Ok(events) => events,
                    Err(error) => {
                        error!(%error, workload = %name, "answers of resolvers can't be followed");
                        return;
                    }
                };
                while let Ok(mut ready) = events.readable().await {
                    ready.clear_ready();
                    match this.upgrade() {
                        Some(this) => this.catch_up(),
                        None => return,
                    }
                }
            });
            Self {
                workload: Arc::downgrade(workload),
                rules,
                registry,
                metrics,
                known: Mutex::new(Known {
                    answers,
                    names: HeardNames::default(),
                    complained: None,
                }),
                follower: follower.abort_handle(),
            }
        })
    }

    /// Whether what is known holds under these rules as well.
    pub(crate) fn serves(&self, rules: &EgressPolicy) -> bool {
        self.rules.has_same_patterns(rules)
    }

    /// Takes every answer that a program may have had by now, and ends the connections that these forbid.
    pub(crate) fn catch_up(&self) {
        let mut news = HashSet::new();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let Known {
                answers,
                names,
                complained,
            } = &mut *known;
            let now = Instant::now();
            let mut unkept = 0;
            let caught_up = answers.drain(|message| match OverheardAnswer::read(message) {
                Ok(answer) => {
                    self.metrics.overheard(true);
                    let taken = answer.map(|answer| names.take(&answer, &self.rules, now));
                    let taken = taken.unwrap_or_default();
                    news.extend(taken.addresses);
                    unkept += taken.unkept;
                }
                Err(error) => {
                    self.metrics.overheard(false);
                    debug!(
                        error = with_causes(&error),
                        "an answer of a resolver can't be read"
                    );
                }
            });
            if caught_up == CaughtUp::WithGaps {
                names.forget();
            }
            let is_due = |since: Instant| now.duration_since(since) >= COMPLAINT_PAUSE;
            let is_lacking = caught_up == CaughtUp::WithGaps || unkept > 0;
            if is_lacking && complained.is_none_or(is_due) {
                *complained = Some(now);
                self.complain(caught_up, unkept);
            }
        }
        if !news.is_empty() {
            self.enforce(&news);
        }
    }

    /// What programs were told of an address, as far as it is taken.
    pub(crate) fn hearsay(&self, destination: SocketAddr) -> Hearsay {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.names.of(destination.ip(), Instant::now())
    }

    fn enforce(&self, addresses: &HashSet<IpAddr>) {
        let Some(workload) = self.workload.upgrade() else {
            return;
        };
        let Some(rules) = workload.rules.get() else {
            return;
        };
        close_objected(&self.registry, &workload.name, |connection| {
            let is_its = addresses.contains(&connection.to().ip().to_canonical());
            is_its.then(|| rules.objection(connection)).flatten()
        });
    }

    fn complain(&self, caught_up: CaughtUp, unkept: usize) {
        let workload = self.workload.upgrade();
        let workload = workload.as_ref().map(|workload| workload.name.as_str());
        match caught_up {
            CaughtUp::WithGaps => warn!(
                workload,
                "answers of resolvers came faster than they could be read, and may be lost; all that \
                 was known of wildcard names is forgotten"
            ),
            CaughtUp::Wholly => warn!(
                workload,
                unkept,
                "programs are told of more addresses than can be kept; others are not known"
            ),
        }
    }
}

impl Drop for Overhearing {
    fn drop(&mut self) {
        self.follower.abort();
    }
}
