//! Rules by workload for destinations in clear, where nobody proves to be any workload.

use super::{Cidr, Destinations, EgressMode, EgressPolicy, EgressRule};

/// A rule by workload that may be for what other rules send in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unprovable {
    /// The index of the rule by workload.
    pub rule: usize,
    /// That of the rule that says plaintext; `None`: the default does.
    pub in_clear: Option<usize>,
}

impl EgressPolicy {
    /// The rules by workload that come before one that sends in clear: where both are for a destination,
    /// whether it may be in clear would be for whoever answers there to say. For each, the first such
    /// rule.
    ///
    /// That is not so where a rule without workload that is not in clear is for all that the one by
    /// workload is for, and comes before the one in clear.
    pub fn unprovable(&self) -> impl Iterator<Item = Unprovable> {
        let is_default = self.default == EgressMode::Plaintext;
        let in_clear = self.rules.iter().enumerate();
        let in_clear = in_clear
            .filter(|(_, rule)| rule.mode == EgressMode::Plaintext && rule.workload.is_none());
        let in_clear: Vec<_> = in_clear
            .map(|(index, _)| Some(index))
            .chain(is_default.then_some(None))
            .collect();
        let by_workload = self.index.by_workload.iter().copied();
        // In clear itself, it is wrong whatever the others are.
        let sealed = by_workload.filter(|&rule| self.rules[rule].mode != EgressMode::Plaintext);
        sealed.filter_map(move |rule| {
            let mut in_clear = in_clear.iter().copied();
            let in_clear = in_clear.find(|&in_clear| self.may_be_in_clear(rule, in_clear))?;
            Some(Unprovable { rule, in_clear })
        })
    }

    fn may_be_in_clear(&self, by_workload: usize, in_clear: Option<usize>) -> bool {
        let rank = self.rank(in_clear);
        let rule = &self.rules[by_workload];
        let may_meet = in_clear.is_none_or(|in_clear| rule.may_meet(&self.rules[in_clear]));
        let mut others = self.rules.iter().enumerate();
        may_meet
            && self.rank(Some(by_workload)) > rank
            && !others.any(|(index, other)| {
                other.mode != EgressMode::Plaintext
                    && other.covers(rule)
                    && self.rank(Some(index)) > rank
            })
    }
}

impl EgressRule {
    /// Whether some destination may be under both. Any names may be those of one address.
    fn may_meet(&self, other: &Self) -> bool {
        let share = |one: Cidr, other: Cidr| one.contains(other) || other.contains(one);
        let networks = self.to.cidr().zip(other.to.cidr());
        self.ports.overlaps(other.ports) && networks.is_none_or(|(one, other)| share(one, other))
    }

    /// Whether it is for whoever answers at every destination of `other`.
    fn covers(&self, other: &Self) -> bool {
        let has_addresses = match self.to {
            Destinations::Network { cidr } => other.to.cidr().is_some_and(|it| cidr.contains(it)),
            _ => self.to == other.to,
        };
        self.workload.is_none() && self.ports.contains_all(other.ports) && has_addresses
    }
}
