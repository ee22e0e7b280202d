//! Many simulated agents in this process, and how far they have come.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::agent::{Agent, Event, InUse, Pace, What};
use super::client::Client;

/// Agents that run until it is dropped.
pub(crate) struct Fleet {
    agents: u32,
    events: mpsc::UnboundedReceiver<Event>,
    failures: HashMap<String, u32>,
    _running: JoinSet<()>,
}

/// When agents came to something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    /// The first of them.
    pub(crate) first: Instant,
    /// The last of them.
    pub(crate) last: Instant,
}

/// When agents came to the steps of a rotation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Followed {
    /// Trust in the new mesh CA.
    pub(crate) trusts: Reached,
    /// A certificate of the new mesh CA.
    pub(crate) holds: Reached,
    /// Trust in no other mesh CA.
    pub(crate) alone: Reached,
}

impl Fleet {
    /// Starts this many agents, and waits until all of them watch.
    pub(crate) async fn start(client: &Arc<Client>, agents: u32, pace: Pace) -> Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let beginners = Arc::new(Semaphore::new(BEGINNERS));
        let mut running = JoinSet::new();
        for number in 0..agents {
            let (client, beginners) = (Arc::clone(client), Arc::clone(&beginners));
            running.spawn(Agent::new(number, client, pace, beginners, sender.clone())?.run());
        }
        let mut fleet = Self {
            agents,
            events,
            failures: HashMap::new(),
            _running: running,
        };
        let mut watching = Progress::default();
        while watching.count() < agents {
            let event = fleet.next(&[&watching]).await?;
            if event.what == What::Watches {
                watching.add(&event);
            }
        }
        Ok(fleet)
    }

    /// Waits until all of them have followed a rotation to this generation.
    pub(crate) async fn follow(&mut self, generation: u64) -> Result<Followed> {
        let [mut trusts, mut holds, mut alone] = [(); 3].map(|()| Progress::default());
        while alone.count() < self.agents || holds.count() < self.agents {
            let event = self.next(&[&trusts, &holds, &alone]).await?;
            let What::Uses(InUse {
                trusted,
                certificate,
                is_alone,
            }) = event.what
            else {
                continue;
            };
            if trusted == generation {
                trusts.add(&event);
            }
            if certificate == generation {
                holds.add(&event);
            }
            if trusted == generation && is_alone {
                alone.add(&event);
            }
        }
        Ok(Followed {
            trusts: trusts.reached()?,
            holds: holds.reached()?,
            alone: alone.reached()?,
        })
    }

    /// How often agents had to begin anew, by why.
    pub(crate) fn failures(&mut self) -> &HashMap<String, u32> {
        while let Ok(event) = self.events.try_recv() {
            self.note(&event);
        }
        &self.failures
    }

    async fn next(&mut self, progress: &[&Progress]) -> Result<Event> {
        let silence = Instant::now() + LONGEST_SILENCE;
        let event = timeout_at(silence, self.events.recv()).await;
        let Ok(Some(event)) = event else {
            bail!(
                "of {} agents {progress:?} went on, then none for {LONGEST_SILENCE:?}; failures: \
                 {:?}",
                self.agents,
                self.failures
            );
        };
        self.note(&event);
        Ok(event)
    }

    fn note(&mut self, event: &Event) {
        if let What::Failed(reason) = &event.what {
            *self.failures.entry(reason.clone()).or_default() += 1;
        }
    }
}

/// The agents that have come to something.
#[derive(Default)]
struct Progress {
    agents: HashSet<u32>,
    reached: Option<Reached>,
}

impl Progress {
    fn add(&mut self, event: &Event) {
        if !self.agents.insert(event.agent) {
            return;
        }
        let Reached { first, last } = self.reached.unwrap_or(Reached {
            first: event.at,
            last: event.at,
        });
        self.reached = Some(Reached {
            first: first.min(event.at),
            last: last.max(event.at),
        });
    }

    fn count(&self) -> u32 {
        self.agents.len() as u32
    }

    fn reached(&self) -> Result<Reached> {
        self.reached.context("there are no agents")
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.count().fmt(f)
    }
}

/// Enough to keep a core busy, too few for anyone's limit.
const BEGINNERS: usize = 64;
const LONGEST_SILENCE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_comes_to_something_twice_counts_once() {
        let start = Instant::now();
        let event = |agent, seconds| Event {
            agent,
            at: start + Duration::from_secs(seconds),
            what: What::Watches,
        };
        let mut progress = Progress::default();
        for event in [event(1, 5), event(2, 3), event(1, 9)] {
            progress.add(&event);
        }
        assert_eq!(progress.count(), 2);
        let reached = progress.reached().unwrap();
        assert_eq!(reached.first, start + Duration::from_secs(3));
        assert_eq!(reached.last, start + Duration::from_secs(5));
    }
}
