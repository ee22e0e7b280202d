//! The refusals of late, numbered, for who asks why: at most [`History::KEPT`] of them.
//!
//! The log has them too, and the metrics count all; this is what `/refusals` and `/explain` read.

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use ebpf_abi::KernelRefusal;
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::{
    connection::RefusalReason,
    policy::{Direction, RuleRef},
};

/// A refused connection as it is remembered and logged.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its number.
    pub id: RefusalId,
    /// What happened.
    pub what: Occurrence,
}

/// What is told of a refused connection.
#[derive(Debug)]
pub(crate) struct Occurrence {
    /// When.
    pub at: SystemTime,
    /// The workload's name.
    pub workload: Arc<str>,
    /// Which way it went.
    pub direction: Direction,
    /// Who opened it, where that is known.
    pub from: Option<SocketAddr>,
    /// Where to, as the opener named it, where that is known.
    pub to: Option<SocketAddr>,
    /// Why.
    pub code: RefusalCode,
    /// The rule that decided, or had let it through so far; `None` if none was asked yet.
    pub rule: Option<RuleRef>,
    /// What exactly; may quote the peer.
    pub detail: String,
}

/// Why a connection was refused, by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalCode {
    /// The eBPF programs.
    Kernel(KernelRefusal),
    /// The agent.
    Agent(RefusalReason),
}

impl RefusalCode {
    /// The code in logs, metrics and the documentation.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Kernel(reason) => reason.as_str(),
            Self::Agent(reason) => reason.as_str(),
        }
    }
}

/// Counts from 1 for each agent's life; written `r1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RefusalId(u64);

impl fmt::Display for RefusalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl FromStr for RefusalId {
    type Err = NoRefusalId;

    fn from_str(text: &str) -> Result<Self, NoRefusalId> {
        let digits = text.strip_prefix('r').ok_or(NoRefusalId)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NoRefusalId);
        }
        digits.parse().map(Self).map_err(|_| NoRefusalId)
    }
}

impl Serialize for RefusalId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text is not the number of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("is no refusal's number; write it as the log does, such as r17")]
pub(crate) struct NoRefusalId;

/// Why a refusal can't be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum UnknownRefusal {
    /// There were fewer.
    #[error("there is no refusal {id} yet: this agent has refused {last} so far")]
    NotYet {
        /// The one asked for.
        id: RefusalId,
        /// How many there were.
        last: u64,
    },
    /// There were too many since.
    #[error(
        "refusal {id} is forgotten: the last {} are kept, {oldest} is the oldest; the log has all",
        History::KEPT
    )]
    Forgotten {
        /// The one asked for.
        id: RefusalId,
        /// The oldest that is kept.
        oldest: RefusalId,
    },
}

/// The last refusals.
#[derive(Debug)]
pub(crate) struct History {
    since: SystemTime,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    last: u64,
    kept: VecDeque<Arc<Refused>>,
}

impl History {
    /// How many are kept: with [`Self::LONGEST_DETAIL`], at most some 1.5 MB.
    pub(crate) const KEPT: usize = 1000;

    /// How many bytes of a detail are kept. What a peer sends can be much longer.
    pub(crate) const LONGEST_DETAIL: usize = 1024;

    /// An empty history.
    pub(crate) fn new() -> Self {
        Self {
            since: SystemTime::now(),
            ring: Mutex::default(),
        }
    }

    /// Since when it is kept: ids of another agent's life mean something else.
    pub(crate) fn since(&self) -> SystemTime {
        self.since
    }

    /// Gives the refusal its number and keeps it, in place of the oldest.
    pub(crate) fn add(&self, mut what: Occurrence) -> Arc<Refused> {
        if what.detail.len() > Self::LONGEST_DETAIL {
            let end = what.detail.floor_char_boundary(Self::LONGEST_DETAIL);
            what.detail.truncate(end);
            what.detail.push('…');
        }
        let mut ring = self.ring();
        ring.last += 1;
        let id = RefusalId(ring.last);
        let refused = Arc::new(Refused { id, what });
        if ring.kept.len() == Self::KEPT {
            ring.kept.pop_front();
        }
        ring.kept.push_back(Arc::clone(&refused));
        refused
    }

    /// Those after `after` that are kept, newest first, and how many more there were.
    pub(crate) fn newest(&self, after: Option<RefusalId>) -> (Vec<Arc<Refused>>, u64) {
        let after = after.map_or(0, |RefusalId(number)| number);
        let ring = self.ring();
        let newer = ring.kept.iter().rev();
        let listed: Vec<_> = newer
            .take_while(|refused| refused.id.0 > after)
            .cloned()
            .collect();
        let omitted = ring.last.saturating_sub(after) - listed.len() as u64;
        (listed, omitted)
    }

    /// The refusal of this number.
    pub(crate) fn get(&self, id: RefusalId) -> Result<Arc<Refused>, UnknownRefusal> {
        let ring = self.ring();
        match ring.kept.front() {
            Some(oldest) if id < oldest.id => Err(UnknownRefusal::Forgotten {
                id,
                oldest: oldest.id,
            }),
            _ => {
                let found = ring.kept.iter().rev().find(|refused| refused.id == id);
                found.cloned().ok_or(UnknownRefusal::NotYet {
                    id,
                    last: ring.last,
                })
            }
        }
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A refusal of the agent, for tests.
#[cfg(test)]
pub(crate) fn occurrence(detail: &str) -> Occurrence {
    Occurrence {
        at: SystemTime::UNIX_EPOCH,
        workload: "web".into(),
        direction: Direction::Ingress,
        from: Some("10.0.0.9:40000".parse().unwrap()),
        to: Some("10.0.0.2:80".parse().unwrap()),
        code: RefusalCode::Agent(RefusalReason::PeerNotAllowed),
        rule: Some(RuleRef::IngressDefault),
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(history: &History, after: Option<&str>) -> (Vec<String>, u64) {
        let (listed, omitted) = history.newest(after.map(|id| id.parse().unwrap()));
        (listed.iter().map(|it| it.id.to_string()).collect(), omitted)
    }

    #[test]
    fn the_newest_come_first_and_after_asks_for_what_is_new() {
        let history = History::new();
        assert_eq!(ids(&history, None), (vec![], 0));
        for detail in ["a", "b", "c"] {
            history.add(occurrence(detail));
        }
        let all = ["r3", "r2", "r1"].map(str::to_owned);
        assert_eq!(ids(&history, None), (all.to_vec(), 0));
        assert_eq!(ids(&history, Some("r2")), (vec!["r3".to_owned()], 0));
        assert_eq!(ids(&history, Some("r3")), (vec![], 0));
        assert_eq!(ids(&history, Some("r300")), (vec![], 0));
    }

    #[test]
    fn the_oldest_are_forgotten_counted_and_named_as_such() {
        let history = History::new();
        for _ in 0..History::KEPT + 5 {
            history.add(occurrence(""));
        }
        let (listed, omitted) = ids(&history, None);
        assert_eq!((listed.len(), omitted), (History::KEPT, 5));
        assert_eq!(ids(&history, Some("r3")).1, 2);
        let ask = |id: &str| history.get(id.parse().unwrap());
        assert_eq!(ask("r6").unwrap().id.to_string(), "r6");
        assert_eq!(
            ask("r5").unwrap_err().to_string(),
            "refusal r5 is forgotten: the last 1000 are kept, r6 is the oldest; the log has all"
        );
        assert_eq!(
            ask("r2000").unwrap_err().to_string(),
            "there is no refusal r2000 yet: this agent has refused 1005 so far"
        );
    }

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        let history = History::new();
        let refused = history.add(occurrence(&"é".repeat(5000)));
        assert_eq!(refused.what.detail, "é".repeat(512) + "…");
    }

    #[test]
    fn a_number_is_written_in_one_way() {
        for text in [
            "",
            "r",
            "17",
            "R17",
            "r-1",
            "r+1",
            "r1 ",
            "r99999999999999999999",
        ] {
            assert_eq!(text.parse::<RefusalId>(), Err(NoRefusalId), "{text:?}");
        }
        assert_eq!("r17".parse::<RefusalId>().unwrap().to_string(), "r17");
    }
}
