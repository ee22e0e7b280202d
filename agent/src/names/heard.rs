//! The names that programs of one workload were told addresses have.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::answer::OverheardAnswer;
use crate::policy::{DnsName, EgressPolicy, Force, Heard, HeardName, NamePattern};

/// An answer is good for no less, whatever it says: a program tries one address after the other.
const SHORTEST_LIFE: Duration = Duration::from_secs(5);

/// How long an address stays under its name's rule when the answer has run out: programs keep answers
/// for longer than they should. Not where the rule says plaintext.
const LINGER: Duration = Duration::from_mins(1);

/// How many names of addresses are kept; some 10 MB.
const MOST_NAMES: usize = 65_536;

/// The pause after a look for what has run out, as long as everything is full.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Addresses and the names that programs were told they have.
#[derive(Debug, Default)]
pub(super) struct HeardNames {
    of_address: HashMap<IpAddr, Vec<Told>>,
    /// How many there are of all addresses.
    told: usize,
    swept: Option<Instant>,
}

/// That an address has a name. One for all names of a pattern, as all of them are under the same rules.
#[derive(Debug)]
struct Told {
    /// `None` for every name that no rule is for.
    pattern: Option<NamePattern>,
    /// The one that was told last.
    name: DnsName,
    /// Until when it may be in clear by it.
    full_until: Option<Instant>,
    until: Instant,
}

/// What an answer has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Addresses that have names by which rules may forbid connections.
    pub(super) addresses: Vec<IpAddr>,
    /// How many addresses there was no room for.
    pub(super) unkept: usize,
}

/// What is known of one address, by value.
#[derive(Clone, Debug, Default)]
pub(crate) enum Hearsay {
    /// Nothing.
    #[default]
    Nothing,
    /// These names have it, as far as there are rules for them.
    Names(Vec<HeardName>),
}

impl Hearsay {
    /// What the rules ask for.
    pub(crate) fn heard(&self) -> Heard<'_> {
        match self {
            Self::Nothing => Heard::Nothing,
            Self::Names(names) => Heard::Names(names),
        }
    }
}

impl HeardNames {
    /// What is known of an address.
    pub(super) fn of(&self, address: IpAddr, now: Instant) -> Hearsay {
        let told = self.of_address.get(&address.to_canonical());
        let mut told = told.into_iter().flatten().filter(|it| it.until > now);
        let Some(first) = told.next() else {
            return Hearsay::Nothing;
        };
        let told = [first].into_iter().chain(told);
        let named = told.filter(|it| it.pattern.is_some()).map(|it| HeardName {
            name: it.name.clone(),
            force: match it.full_until {
                Some(until) if until > now => Force::Full,
                Some(_) | None => Force::NotInClear,
            },
        });
        Hearsay::Names(named.collect())
    }

    /// Keeps what a program was told.
    pub(super) fn take(
        &mut self,
        answer: &OverheardAnswer,
        rules: &EgressPolicy,
        now: Instant,
    ) -> News {
        let full_until = now + answer.life.max(SHORTEST_LIFE);
        let until = full_until + LINGER;
        let asked = [(&answer.name, Some(full_until))];
        let aliases = answer.aliases.iter().map(|alias| (alias, None));
        let names: Vec<_> = asked
            .into_iter()
            .chain(aliases)
            .map(|(name, full_until)| (rules.pattern_of(name), name, full_until))
            .collect();
        let mut news = News::default();
        for address in &answer.addresses {
            for (pattern, name, full_until) in &names {
                let told = Told {
                    pattern: pattern.clone(),
                    name: (*name).clone(),
                    full_until: *full_until,
                    until,
                };
                if !self.has(*address, pattern.as_ref(), now) {
                    if !self.has_room(now) {
                        // Others of its names are not all: then none is known.
                        self.forget_address(*address);
                        news.unkept += 1;
                        break;
                    }
                    if pattern.is_some() {
                        news.addresses.push(*address);
                    }
                }
                self.tell(*address, told);
            }
        }
        news
    }

    /// Something was not heard: what is known may not be all.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn has(&self, address: IpAddr, pattern: Option<&NamePattern>, now: Instant) -> bool {
        let told = self.of_address.get(&address);
        let mut told = told.into_iter().flatten();
        told.any(|it| it.pattern.as_ref() == pattern && it.until > now)
    }

    fn tell(&mut self, address: IpAddr, new: Told) {
        let told = self.of_address.entry(address).or_default();
        if let Some(old) = told.iter_mut().find(|it| it.pattern == new.pattern) {
            old.name = new.name;
            old.full_until = old.full_until.max(new.full_until);
            old.until = old.until.max(new.until);
        } else {
            told.push(new);
            self.told += 1;
        }
    }

    fn has_room(&mut self, now: Instant) -> bool {
        let is_due = |swept: Instant| now.duration_since(swept) >= SWEEP_PAUSE;
        if self.told >= MOST_NAMES && self.swept.is_none_or(is_due) {
            self.swept = Some(now);
            self.of_address.retain(|_, told| {
                told.retain(|it| it.until > now);
                !told.is_empty()
            });
            self.told = self.of_address.values().map(Vec::len).sum();
        }
        self.told < MOST_NAMES
    }

    fn forget_address(&mut self, address: IpAddr) {
        if let Entry::Occupied(told) = self.of_address.entry(address) {
            self.told -= told.remove().len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Destinations, EgressMode, EgressRule, PeerSet, PortRange};

    #[test]
    fn an_answer_is_good_for_as_long_as_it_says_and_then_for_what_is_not_in_clear() {
        let (mut heard, rules, now) = scene();
        heard.take(&answer("a.pub.org", &[], 30), &rules, now);
        for (later, expected) in [
            (0, &[("a.pub.org", Force::Full)][..]),
            (29, &[("a.pub.org", Force::Full)]),
            (30, &[("a.pub.org", Force::NotInClear)]),
            (89, &[("a.pub.org", Force::NotInClear)]),
        ] {
            let names = names(&heard, now + Duration::from_secs(later));
            assert_eq!(names, Some(owned(expected)), "{later}");
        }
        assert_eq!(names(&heard, now + Duration::from_secs(90)), None);

        // One that is good for no time at all is good for a connection.
        heard.forget();
        heard.take(&answer("a.pub.org", &[], 0), &rules, now);
        let soon = names(&heard, now + Duration::from_secs(4));
        assert_eq!(soon, Some(owned(&[("a.pub.org", Force::Full)])));
    }

    #[test]
    fn an_alias_makes_nothing_plaintext() {
        let (mut heard, rules, now) = scene();
        let news = heard.take(&answer("x.evil.org", &["a.pub.org"], 30), &rules, now);
        assert_eq!(news.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        let expected = owned(&[("a.pub.org", Force::NotInClear)]);
        assert_eq!(names(&heard, now), Some(expected));
        // Nor does it take away what was told.
        heard.take(&answer("b.pub.org", &[], 30), &rules, now);
        heard.take(&answer("x.evil.org", &["a.pub.org"], 30), &rules, now);
        let expected = owned(&[("a.pub.org", Force::Full)]);
        assert_eq!(names(&heard, now), Some(expected));
    }

    #[test]
    fn a_name_without_a_rule_says_that_the_address_is_known() {
        let (mut heard, rules, now) = scene();
        assert_eq!(names(&heard, now), None);
        let news = heard.take(&answer("else.org", &[], 30), &rules, now);
        assert_eq!(news, News::default());
        assert_eq!(names(&heard, now), Some(Vec::new()));
    }

    #[test]
    fn what_is_told_again_is_no_news() {
        let (mut heard, rules, now) = scene();
        let first = heard.take(&answer("a.pub.org", &[], 30), &rules, now);
        assert_eq!(first.addresses.len(), 1);
        let again = heard.take(&answer("b.pub.org", &[], 30), &rules, now);
        assert_eq!(again, News::default());
    }

    #[test]
    fn an_address_with_a_name_that_there_is_no_room_for_is_not_known() {
        let (mut heard, rules, now) = scene();
        let mut many = answer("else.org", &[], 3600);
        many.addresses = (0..MOST_NAMES as u32)
            .map(|nth| IpAddr::from((0x0a00_0001 + nth).to_be_bytes()))
            .collect();
        assert_eq!(heard.take(&many, &rules, now), News::default());
        assert_eq!(names(&heard, now), Some(Vec::new()));
        let news = heard.take(&answer("a.pub.org", &[], 30), &rules, now);
        assert_eq!(news.unkept, 1);
        assert_eq!(names(&heard, now), None);

        // What has run out makes room.
        let later = now + Duration::from_hours(2);
        let news = heard.take(&many, &rules, later);
        assert_eq!(news.unkept, 0);
    }

    fn scene() -> (HeardNames, EgressPolicy, Instant) {
        let rule = EgressRule {
            to: Destinations::Name {
                name: "*.pub.org".parse().unwrap(),
            },
            ports: PortRange::ALL,
            workload: None,
            mode: EgressMode::Deny,
            peers: PeerSet::any(),
        };
        let rules = EgressPolicy::new(EgressMode::Mtls, PeerSet::any(), vec![rule]);
        (HeardNames::default(), rules, Instant::now())
    }

    fn answer(name: &str, aliases: &[&str], seconds: u64) -> OverheardAnswer {
        OverheardAnswer {
            name: name.parse().unwrap(),
            aliases: aliases.iter().map(|it| it.parse().unwrap()).collect(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            life: Duration::from_secs(seconds),
        }
    }

    fn names(heard: &HeardNames, now: Instant) -> Option<Vec<(String, Force)>> {
        match heard.of("10.0.0.1".parse().unwrap(), now) {
            Hearsay::Nothing => None,
            Hearsay::Names(names) => {
                let names = names.into_iter();
                Some(names.map(|it| (it.name.to_string(), it.force)).collect())
            }
        }
    }

    fn owned(expected: &[(&str, Force)]) -> Vec<(String, Force)> {
        let expected = expected.iter();
        expected
            .map(|(name, force)| ((*name).to_owned(), *force))
            .collect()
    }
}
