//! Follows the names in a workload's rules: looks each up when its answer has run out, and puts in force
//! what it leads to.

use std::{
    cmp,
    collections::{BTreeSet, HashMap},
    mem,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{Answer, LookupError, NameTable, Names};
use crate::{
    causes::with_causes,
    metrics::NameMetrics,
    policy::{DnsName, EgressMode, EgressPolicy, Unknown},
    registry::Registry,
    rules::Rules,
    workload::Workload,
};

/// Look-ups of one workload that may be under way at once.
const MOST_LOOKUPS: usize = 32;

/// An answer is good for no less, whatever it says.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);

/// How long an address stays under its name's rule when the answers have it no more: programs keep
/// answers for longer than they should. Not where the rule says plaintext.
const LINGER: Duration = Duration::from_mins(1);

/// The longest pause after look-ups that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long what an answer says may wait for others.
const LONGEST_DELAY: Duration = Duration::from_millis(50);

/// Follows the names of one workload.
#[derive(Debug)]
pub(crate) struct NameFollower {
    workload: Arc<Workload>,
    names: Rc<Names>,
    registry: Arc<Registry>,
    metrics: NameMetrics,
    /// Those whose names are followed.
    rules: Option<Arc<EgressPolicy>>,
    followed: HashMap<DnsName, Followed>,
    /// What is to be looked at next, and when.
    due: BTreeSet<(Instant, DnsName)>,
}

/// One name.
#[derive(Debug)]
struct Followed {
    state: State,
    lingers: bool,
    /// Its entry in `due`; none while a look-up is under way.
    due: Option<Instant>,
    failures: u32,
}

/// What stands in for a state that is being made.
const UNTOUCHED: State = State::Unknown(Unknown::Failed);

/// What is known of it.
#[derive(Debug)]
enum State {
    Unknown(Unknown),
    /// Its addresses; for one that the last answer has not, how long it stays.
    Known(HashMap<IpAddr, Option<Instant>>),
    /// The same, but nobody could say of late: it may have others by now.
    Stale(HashMap<IpAddr, Option<Instant>>),
}

/// What was learnt and is not in force yet: what many answers say comes into force at once.
#[derive(Clone, Copy, Debug)]
enum News {
    None,
    /// Nothing waits for longer than until then.
    Until(Instant),
}

impl News {
    fn and_more(self, now: Instant) -> Self {
        match self {
            Self::None => Self::Until(now + LONGEST_DELAY),
            Self::Until(_) => self,
        }
    }

    fn until(self) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::Until(then) => Some(then),
        }
    }

    fn is_due(self, now: Instant, is_all: bool) -> bool {
        self.until().is_some_and(|then| is_all || then <= now)
    }
}

impl NameFollower {
    /// Of the workload's rules, whatever they become.
    pub(crate) fn new(
        workload: Arc<Workload>,
        names: Names,
        registry: Arc<Registry>,
        metrics: NameMetrics,
    ) -> Self {
        Self {
            workload,
            names: Rc::new(names),
            registry,
            metrics,
            rules: None,
            followed: HashMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Follows until the workload is served no more.
    pub(crate) async fn follow(mut self) {
        let mut changed = self.workload.rules.subscribe();
        let mut lookups: JoinSet<(DnsName, Result<Answer, LookupError>)> = JoinSet::new();
        let mut news = News::None;
        while let Some(rules) = self.workload.rules.get() {
            self.take_up(&rules.egress);
            let now = Instant::now();
            while lookups.len() < MOST_LOOKUPS
                && let Some(name) = self.next_due(now)
            {
                let names = self.names.clone();
                lookups.spawn_local(async move {
                    let answer = names.addresses(&name).await;
                    (name, answer)
                });
            }
            if news.is_due(now, lookups.is_empty()) {
                self.publish();
                news = News::None;
            }
            let due = self.due.first().map(|(due, _)| *due);
            let due = due.filter(|_| lookups.len() < MOST_LOOKUPS);
            let next = due.into_iter().chain(news.until()).min();
            tokio::select! {
                heard = changed.changed() => if heard.is_err() {
                    return;
                },
                Some(answered) = lookups.join_next() => {
                    // A look-up that panicked is tried no more; its name stays unknown.
                    if let Ok((name, answer)) = answered
                        && self.learn(&name, answer, Instant::now())
                    {
                        news = news.and_more(Instant::now());
                    }
                }
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
            }
        }
    }

    /// Begins to follow the names that rules have, and stops to follow others.
    fn take_up(&mut self, egress: &Arc<EgressPolicy>) {
        let known = self.rules.as_ref();
        if known.is_some_and(|known| Arc::ptr_eq(known, egress)) {
            return;
        }
        self.rules = Some(egress.clone());
        let Self { followed, due, .. } = self;
        followed.retain(|name, it| {
            let stays = egress.looks_up(name);
            if !stays && let Some(at) = it.due {
                due.remove(&(at, name.clone()));
            }
            stays
        });
        let in_clear: BTreeSet<_> = egress
            .rules()
            .iter()
            .filter(|rule| rule.mode == EgressMode::Plaintext)
            .filter_map(|rule| rule.to.name()?.name())
            .collect();
        let now = Instant::now();
        for name in egress.names() {
            let lingers = !in_clear.contains(name);
            let it = followed.entry(name.clone()).or_insert_with(|| {
                due.insert((now, name.clone()));
                Followed {
                    state: State::Unknown(Unknown::Pending),
                    lingers,
                    due: Some(now),
                    failures: 0,
                }
            });
            it.lingers = lingers;
        }
    }

    fn next_due(&mut self, now: Instant) -> Option<DnsName> {
        let (_, name) = self.due.first().filter(|(due, _)| *due <= now)?;
        let name = name.clone();
        self.due.pop_first();
        if let Some(it) = self.followed.get_mut(&name) {
            it.due = None;
        }
        Some(name)
    }

    /// Takes what a look-up has found; whether rules may now decide otherwise.
    fn learn(&mut self, name: &DnsName, answer: Result<Answer, LookupError>, now: Instant) -> bool {
        let Some(it) = self.followed.get_mut(name) else {
            return false;
        };
        let workload = &self.workload.name;
        let (is_news, pause) = match answer {
            Ok(answer) => {
                self.metrics.looked_up(true);
                if it.failures > 0 {
                    info!(%workload, %name, "the name of a rule can be looked up again");
                }
                it.failures = 0;
                let life = answer.valid_until.saturating_duration_since(now);
                (it.take(&answer.addresses, now), life.max(SHORTEST_LIFE))
            }
            Err(error) => {
                self.metrics.looked_up(false);
                if it.failures == 0 {
                    let error = with_causes(&error);
                    warn!(%workload, %name, error, "the name of a rule can't be looked up");
                }
                let pause = SHORTEST_LIFE.saturating_mul(1 << it.failures.min(5));
                it.failures = it.failures.saturating_add(1);
                (it.fail(), cmp::min(pause, LONGEST_PAUSE))
            }
        };
        let at = now + pause;
        it.due = Some(at);
        self.due.insert((at, name.clone()));
        is_news
    }

    /// Puts in force what is known by now, and ends what that forbids.
    fn publish(&self) {
        let mut pairs = Vec::new();
        let mut unknown = Vec::new();
        for (name, it) in &self.followed {
            match &it.state {
                State::Unknown(why) => unknown.push((name.clone(), *why)),
                State::Known(addresses) | State::Stale(addresses) => {
                    pairs.extend(addresses.keys().map(|address| (*address, name.clone())));
                }
            }
            if matches!(it.state, State::Stale(_)) {
                unknown.push((name.clone(), Unknown::Failed));
            }
        }
        self.metrics
            .set_known(self.followed.len() - unknown.len(), unknown.len());
        let table = Arc::new(NameTable::new(pairs, unknown));
        let updated = self.workload.rules.update(|rules| {
            Some(Rules {
                names: table,
                ..rules.clone()
            })
        });
        if let Some(rules) = updated {
            rules.enforce(&self.workload.name, &self.registry);
        }
    }
}

impl Followed {
    fn take(&mut self, addresses: &[IpAddr], now: Instant) -> bool {
        let (mut known, was_stale) = match mem::replace(&mut self.state, UNTOUCHED) {
            State::Known(known) => (known, false),
            State::Stale(known) => (known, true),
            State::Unknown(_) => (HashMap::new(), true),
        };
        let before: BTreeSet<_> = known.keys().copied().collect();
        if self.lingers {
            for (address, until) in &mut known {
                if !addresses.contains(address) {
                    until.get_or_insert(now + LINGER);
                }
            }
            known.retain(|_, until| until.is_none_or(|until| until > now));
        } else {
            known.clear();
        }
        known.extend(addresses.iter().map(|address| (*address, None)));
        let is_news = was_stale || known.keys().copied().collect::<BTreeSet<_>>() != before;
        self.state = State::Known(known);
        is_news
    }

    /// Nobody could say. What may be talked to in clear is not by an answer that has run out; other
    /// addresses keep their rule, and the name may have more of them.
    fn fail(&mut self) -> bool {
        let (state, is_news) = match mem::replace(&mut self.state, UNTOUCHED) {
            State::Known(known) if self.lingers => (State::Stale(known), true),
            State::Stale(known) if self.lingers => (State::Stale(known), false),
            State::Unknown(Unknown::Failed) => (UNTOUCHED, false),
            _ => (UNTOUCHED, true),
        };
        self.state = state;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_gone_stays_for_a_while_unless_it_may_be_in_clear() {
        for (lingers, then, later) in [
            (true, &["10.0.0.1", "10.0.0.2"][..], &["10.0.0.2"][..]),
            (false, &["10.0.0.2"], &["10.0.0.2"]),
        ] {
            let now = Instant::now();
            let mut it = new(lingers);
            assert!(it.take(&addresses(&["10.0.0.1"]), now));
            assert!(!it.take(&addresses(&["10.0.0.1"]), now));
            it.take(&addresses(&["10.0.0.2"]), now);
            assert_eq!(known(&it), then);
            // Asked again in between, it does not stay for longer.
            it.take(&addresses(&["10.0.0.2"]), now + LINGER / 2);
            it.take(&addresses(&["10.0.0.2"]), now + LINGER);
            assert_eq!(known(&it), later);
            // What comes back is not gone.
            it.take(&addresses(&["10.0.0.1", "10.0.0.2"]), now);
            it.take(&addresses(&["10.0.0.1", "10.0.0.2"]), now + LINGER * 2);
            assert_eq!(known(&it), ["10.0.0.1", "10.0.0.2"]);
        }
    }

    #[test]
    fn a_failed_look_up_unmakes_what_may_be_in_clear_and_nothing_else() {
        for (lingers, expected) in [(true, &["10.0.0.1"][..]), (false, &[])] {
            let mut it = new(lingers);
            assert!(it.fail());
            assert!(!it.fail());
            it.take(&addresses(&["10.0.0.1"]), Instant::now());
            assert!(it.fail());
            assert!(!it.fail());
            assert!(!matches!(it.state, State::Known(_)));
            assert_eq!(known(&it), expected);
            assert!(it.take(&addresses(&["10.0.0.1"]), Instant::now()));
            assert!(matches!(it.state, State::Known(_)));
        }
    }

    #[test]
    fn a_name_without_an_address_is_known_to_have_none() {
        let mut it = new(true);
        assert!(it.take(&[], Instant::now()));
        assert!(matches!(it.state, State::Known(_)));
    }

    fn new(lingers: bool) -> Followed {
        Followed {
            state: State::Unknown(Unknown::Pending),
            lingers,
            due: None,
            failures: 0,
        }
    }

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|it| it.parse().unwrap()).collect()
    }

    fn known(it: &Followed) -> Vec<String> {
        let (State::Known(addresses) | State::Stale(addresses)) = &it.state else {
            return Vec::new();
        };
        let known: BTreeSet<_> = addresses.keys().collect();
        known.into_iter().map(ToString::to_string).collect()
    }
}
