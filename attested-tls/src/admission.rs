//! Which connections may do their handshake now, which wait, and which make way for others.
//!
//! A half-open connection costs its owner nothing, so that waiting in line would let whoever opens
//! most of them keep everybody else out. Hence: sources take turns, the one with the fewest
//! handshakes first; within a source the newest goes first, being the one whose owner still waits;
//! and a handshake that has lasted a while makes way if others wait.
//!
//! Bookkeeping alone: connections are values, and time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::source::Source;

#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmissionLimits {
    pub(crate) handshakes: usize,
    pub(crate) handshakes_per_source: usize,
    pub(crate) waiting: usize,
    /// How long a handshake may last while others wait.
    pub(crate) patience: Duration,
    /// How long a connection may wait.
    pub(crate) longest_wait: Duration,
}

#[derive(Debug)]
pub(crate) struct Admission<C> {
    limits: AdmissionLimits,
    /// In the order of arrival.
    waiting: VecDeque<Waiting<C>>,
    running: HashMap<Ticket, Running>,
    sources: HashMap<Source, Load>,
    next_ticket: u64,
}

/// One handshake in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct Waiting<C> {
    source: Source,
    since: Instant,
    connection: C,
}

#[derive(Debug)]
struct Running {
    source: Source,
    since: Instant,
}

#[derive(Debug, Default)]
struct Load {
    waiting: usize,
    running: usize,
}

impl<C> Admission<C> {
    pub(crate) fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            running: HashMap::new(),
            sources: HashMap::new(),
            next_ticket: 0,
        }
    }

    /// Lets a connection wait, and gives the one that is to be dropped for it, if any: the oldest
    /// of the source that has most waiting.
    pub(crate) fn arrive(&mut self, source: Source, connection: C, now: Instant) -> Option<C> {
        self.waiting.push_back(Waiting {
            source,
            since: now,
            connection,
        });
        self.load(source).waiting += 1;
        if self.waiting.len() <= self.limits.waiting {
            return None;
        }
        let (crowd, _) = self.sources.iter().max_by_key(|(_, load)| load.waiting)?;
        let crowd = *crowd;
        let oldest = self.waiting.iter().position(|it| it.source == crowd)?;
        self.stop_waiting(oldest).map(|it| it.connection)
    }

    /// The connection whose handshake is to begin now, if one may. `room` says whether one more
    /// connection of a source may be open.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        room: impl Fn(Source) -> bool,
    ) -> Option<(Ticket, Source, C)> {
        if self.running.len() >= self.limits.handshakes {
            return None;
        }
        let newest_of_the_least = (0..self.waiting.len())
            .rev()
            .filter_map(|index| {
                let source = self.waiting.get(index)?.source;
                Some((index, source, self.running_of(source)))
            })
            .filter(|(_, source, running)| {
                *running < self.limits.handshakes_per_source && room(*source)
            })
            .min_by_key(|(_, _, running)| *running);
        let (index, ..) = newest_of_the_least?;
        let Waiting {
            source, connection, ..
        } = self.stop_waiting(index)?;
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.running.insert(ticket, Running { source, since: now });
        self.load(source).running += 1;
        Some((ticket, source, connection))
    }

    /// A handshake is over, one way or the other.
    pub(crate) fn finish(&mut self, ticket: Ticket) {
        if let Some(Running { source, .. }) = self.running.remove(&ticket) {
            self.load(source).running -= 1;
            self.forget_if_idle(source);
        }
    }

    /// A handshake that is to make way now, if one is.
    pub(crate) fn evict(&mut self, now: Instant) -> Option<Ticket> {
        let (ticket, since) = self.next_to_make_way()?;
        if now.duration_since(since) < self.limits.patience {
            return None;
        }
        self.finish(ticket);
        Some(ticket)
    }

    /// A connection that has waited for too long, if there is one.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<C> {
        let oldest = self.waiting.front()?;
        if now.duration_since(oldest.since) < self.limits.longest_wait {
            return None;
        }
        self.stop_waiting(0).map(|it| it.connection)
    }

    /// When [`Admission::evict`] or [`Admission::expire`] will have something next, as things are.
    pub(crate) fn next_alarm(&self) -> Option<Instant> {
        let expiry = self.waiting.front()?.since + self.limits.longest_wait;
        let eviction = self
            .next_to_make_way()
            .map(|(_, since)| since + self.limits.patience);
        Some(eviction.map_or(expiry, |eviction| eviction.min(expiry)))
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// The oldest handshake of those whose end would let another begin; of the source that has most,
    /// where any would.
    fn next_to_make_way(&self) -> Option<(Ticket, Instant)> {
        if self.waiting.is_empty() {
            return None;
        }
        let all_taken = self.running.len() >= self.limits.handshakes;
        self.running
            .iter()
            .map(|(ticket, it)| (ticket, it, self.sources.get(&it.source)))
            .filter(|(_, _, load)| {
                all_taken
                    || load.is_some_and(|load| {
                        load.waiting > 0 && load.running >= self.limits.handshakes_per_source
                    })
            })
            .min_by_key(|(_, it, load)| {
                let running = load.map_or(0, |load| load.running);
                (std::cmp::Reverse(running), it.since)
            })
            .map(|(ticket, it, _)| (*ticket, it.since))
    }

    fn running_of(&self, source: Source) -> usize {
        self.sources.get(&source).map_or(0, |load| load.running)
    }

    fn stop_waiting(&mut self, index: usize) -> Option<Waiting<C>> {
        let it = self.waiting.remove(index)?;
        self.load(it.source).waiting -= 1;
        self.forget_if_idle(it.source);
        Some(it)
    }

    fn load(&mut self, source: Source) -> &mut Load {
        self.sources.entry(source).or_default()
    }

    fn forget_if_idle(&mut self, source: Source) {
        if let Some(Load {
            waiting: 0,
            running: 0,
        }) = self.sources.get(&source)
        {
            self.sources.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits {
        handshakes: 4,
        handshakes_per_source: 2,
        waiting: 6,
        patience: Duration::from_secs(2),
        longest_wait: Duration::from_secs(10),
    };

    fn source(last: u8) -> Source {
        IpAddr::from([192, 0, 2, last]).into()
    }

    struct Bench {
        admission: Admission<&'static str>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                admission: Admission::new(LIMITS),
                now: Instant::now(),
            }
        }

        fn arrive(&mut self, last: u8, name: &'static str) -> Option<&'static str> {
            self.admission.arrive(source(last), name, self.now)
        }

        fn start_all(&mut self) -> Vec<(Ticket, &'static str)> {
            std::iter::from_fn(|| self.admission.start(self.now, |_| true))
                .map(|(ticket, _, name)| (ticket, name))
                .collect()
        }

        fn names(started: &[(Ticket, &'static str)]) -> Vec<&'static str> {
            started.iter().map(|(_, name)| *name).collect()
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn a_source_with_few_handshakes_goes_before_one_with_many() {
        let mut bench = Bench::new();
        for name in ["flood 1", "flood 2", "flood 3"] {
            bench.arrive(1, name);
        }
        bench.arrive(2, "honest");
        let started = bench.start_all();
        assert_eq!(Bench::names(&started), ["honest", "flood 3", "flood 2"]);
        assert_eq!(bench.admission.waiting(), 1);
    }

    #[test]
    fn the_newest_of_a_source_goes_first() {
        let mut bench = Bench::new();
        for name in ["first", "second", "third"] {
            bench.arrive(1, name);
        }
        assert_eq!(Bench::names(&bench.start_all()), ["third", "second"]);
    }

    #[test]
    fn who_overflows_the_waiting_room_drops_its_own_oldest() {
        let mut bench = Bench::new();
        bench.arrive(2, "honest");
        for name in ["1", "2", "3", "4", "5"] {
            assert_eq!(bench.arrive(1, name), None);
        }
        assert_eq!(bench.arrive(1, "6"), Some("1"));
        assert_eq!(bench.arrive(3, "another"), Some("2"));
    }

    #[test]
    fn a_finished_handshake_lets_the_next_begin() {
        let mut bench = Bench::new();
        for name in ["first", "second", "third"] {
            bench.arrive(1, name);
        }
        let started = bench.start_all();
        bench.admission.finish(started[0].0);
        assert_eq!(Bench::names(&bench.start_all()), ["first"]);
    }

    #[test]
    fn a_handshake_makes_way_only_when_it_lasts_and_somebody_waits_for_it() {
        let mut bench = Bench::new();
        bench.arrive(1, "slow");
        let started = bench.start_all();
        bench.wait(5);
        assert_eq!(bench.admission.evict(bench.now), None);
        assert_eq!(bench.admission.next_alarm(), None);
        // One of the same source takes the second place, the next has to wait.
        bench.arrive(1, "second");
        bench.start_all();
        bench.arrive(1, "third");
        assert_eq!(bench.admission.evict(bench.now), Some(started[0].0));
        assert_eq!(Bench::names(&bench.start_all()), ["third"]);
        bench.arrive(1, "fourth");
        assert_eq!(bench.admission.evict(bench.now), None);
        assert_eq!(
            bench.admission.next_alarm(),
            Some(bench.now + LIMITS.patience)
        );
    }

    #[test]
    fn of_all_sources_the_one_with_most_handshakes_makes_way() {
        let mut bench = Bench::new();
        bench.arrive(2, "honest");
        bench.start_all();
        bench.wait(1);
        for (last, name) in [(1, "flood 1"), (1, "flood 2"), (3, "other")] {
            bench.arrive(last, name);
        }
        let started = bench.start_all();
        let flood: Vec<_> = started
            .iter()
            .filter(|(_, name)| name.starts_with("flood"))
            .map(|(ticket, _)| *ticket)
            .collect();
        bench.arrive(4, "newcomer");
        bench.wait(2);
        let evicted = bench.admission.evict(bench.now).unwrap();
        assert!(flood.contains(&evicted));
        assert_eq!(Bench::names(&bench.start_all()), ["newcomer"]);
    }

    #[test]
    fn who_waits_too_long_is_given_up() {
        let mut bench = Bench::new();
        bench.arrive(1, "old");
        bench.wait(1);
        bench.arrive(1, "young");
        bench.wait(9);
        assert_eq!(bench.admission.expire(bench.now), Some("old"));
        assert_eq!(bench.admission.expire(bench.now), None);
    }

    #[test]
    fn a_source_whose_connections_are_too_many_waits_while_others_go_on() {
        let mut bench = Bench::new();
        bench.arrive(2, "modest");
        bench.arrive(1, "greedy");
        let room = |it| it != source(1);
        let (_, _, name) = bench.admission.start(bench.now, room).unwrap();
        assert_eq!(name, "modest");
        assert!(bench.admission.start(bench.now, room).is_none());
    }

    #[test]
    fn nothing_is_kept_of_sources_that_are_gone() {
        let mut bench = Bench::new();
        bench.arrive(1, "one");
        let started = bench.start_all();
        bench.arrive(2, "two");
        bench.admission.finish(started[0].0);
        bench.wait(10);
        bench.admission.expire(bench.now);
        assert!(bench.admission.sources.is_empty());
        assert_eq!(bench.admission.running(), 0);
    }
}
