//! What the rules say once a peer has proved who it is, where some are by workload.

use std::net::SocketAddr;

use attestation::identity::SpiffeId;

use super::Rules;
use crate::{
    config::Enforcement,
    policy::{EgressDecision, EgressMode, Known, RuleRef, Undecided},
};

/// What they say of a peer.
#[derive(Debug)]
pub(crate) struct OfPeer<'a> {
    /// What happens to the connection.
    pub decision: EgressDecision<'a>,
    /// The rule that denies the peer, where `dry_run` goes by the destination alone.
    pub passed_over: Option<RuleRef>,
}

impl Rules {
    /// Whether who answers there must prove it before the rules can say more than was `found` without.
    pub(crate) fn await_proof(
        &self,
        to: SocketAddr,
        known: Known<'_>,
        found: &EgressDecision<'_>,
    ) -> bool {
        let mut by_workload = self.egress.if_proved(to, known, found);
        self.egress.has_workloads() && by_workload.next().is_some()
    }

    /// What they say of a connection that `peer` has answered.
    ///
    /// # Errors
    /// As [`EgressPolicy::decide`](crate::policy::EgressPolicy::decide).
    pub(crate) fn of_peer(
        &self,
        to: SocketAddr,
        known: Known<'_>,
        peer: &SpiffeId,
    ) -> Result<OfPeer<'_>, Undecided> {
        let decision = self.egress.decide_for(to, known, peer)?;
        if decision.mode != EgressMode::Deny || self.enforcement == Enforcement::Enforced {
            return Ok(OfPeer {
                decision,
                passed_over: None,
            });
        }
        let without = self.egress.decide(to, known)?;
        let passed_over = (without.rule != decision.rule).then_some(decision.rule);
        Ok(OfPeer {
            decision: without,
            passed_over,
        })
    }
}
