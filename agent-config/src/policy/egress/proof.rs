//! Rules by workload: what they could say before anybody has proved to answer, and for whom they are.

use std::net::SocketAddr;

use attestation::identity::SpiffeId;

use super::{EgressDecision, EgressMode, EgressPolicy, Known, RuleRef, Unknown};

impl EgressPolicy {
    /// Whether any rule is by workload.
    pub fn has_workloads(&self) -> bool {
        !self.index.by_workload.is_empty()
    }

    /// What the rules by workload say that would come before what was `found` without them, if one of
    /// these workloads should answer.
    pub fn if_proved<'a>(
        &'a self,
        destination: SocketAddr,
        known: Known<'a>,
        found: &EgressDecision<'_>,
    ) -> impl Iterator<Item = EgressDecision<'a>> {
        let found = match found.rule {
            RuleRef::Egress { index, .. } => Some(index),
            _ => None,
        };
        let rank = self.rank(found);
        let candidates = self.index.by_workload.iter().copied();
        candidates
            .filter(move |&index| {
                self.matches(index, destination)
                    && self.has_its_name(index, known)
                    && self.rank(Some(index)) > rank
            })
            .map(|index| self.decision((Some(index), None)))
    }

    /// Whether the rule is for whoever answers, or for `peer`.
    pub(super) fn is_of(&self, index: usize, peer: Option<&SpiffeId>) -> bool {
        self.rules.get(index).is_some_and(|rule| {
            let workload = rule.workload.as_ref();
            workload.is_none_or(|workload| peer.is_some_and(|peer| workload.meets(peer)))
        })
    }

    /// Whether a rule by a name that is not known may be for who answers. Before anybody has proved to be
    /// there, one by workload is waited for, and stops only what is in clear: whom else it is to stop it
    /// stops after the proof.
    pub(super) fn may_be_of(
        &self,
        index: usize,
        peer: Option<&SpiffeId>,
        found: &EgressDecision<'_>,
        why: Unknown,
    ) -> bool {
        let is_before = peer.is_none();
        let is_now = why == Unknown::Pending || found.mode == EgressMode::Plaintext;
        self.is_of(index, peer) || (is_before && is_now)
    }

    /// Whether the destination has the name that the rule is by, if it is by one.
    fn has_its_name(&self, index: usize, known: Known<'_>) -> bool {
        let name = self.rules.get(index).and_then(|rule| rule.to.name());
        let heard = known.heard.names().iter().map(|it| &it.name);
        let mut names = known.names.iter().chain(heard);
        name.is_none_or(|pattern| names.any(|name| pattern.has(name)))
    }
}
