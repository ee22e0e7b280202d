use std::{sync::Arc, time::SystemTime};

use userspace_tls::MeshTls;

use super::{
    CloseCause, Door, NamedListener,
    intercept::{Ends, Intercepted},
    refusal::{Cause, Refusal, RefusalReason},
};
use crate::{
    config::EgressListener,
    policy::{Direction, EgressMode, IngressMode, Mode, PeerSet, RuleRef},
    registry::{Opening, Registration},
    rules::Rules,
};

/// A connection that a rule lets through, with who the peer must be.
#[derive(Debug)]
pub(super) struct Authorized {
    pub(super) intercepted: Intercepted,
    /// The rules that were asked.
    pub(super) rules: Arc<Rules>,
    pub(super) protection: Protection,
    pub(super) entry: Registration,
}

/// How the rule wants the bytes to travel.
#[derive(Debug)]
pub(super) enum Protection {
    /// TLS, with what the workload proves itself with and whom it accepts.
    Tls {
        mode: Mode,
        tls: Arc<MeshTls>,
        peers: PeerSet,
    },
    /// In clear.
    Plaintext,
}

impl Protection {
    pub(super) fn mode(&self) -> Mode {
        match self {
            Self::Tls { mode, .. } => *mode,
            Self::Plaintext => Mode::Plaintext,
        }
    }
}

impl Intercepted {
    /// Asks the workload's rules.
    pub(super) fn authorize(self, door: &Door) -> Result<Authorized, Refusal> {
        let Ends { from, to, .. } = self.ends;
        self.decide(door)
            .map_err(|cause| cause.between(Some(from), Some(to)))
    }

    fn decide(self, door: &Door) -> Result<Authorized, Cause> {
        let removed = || closed(CloseCause::WorkloadRemoved);
        let rules = door.workload.rules.get().ok_or_else(removed)?;
        let (rule, protection) = match door.direction {
            Direction::Egress => egress(door, &rules, &self.ends)?,
            Direction::Ingress => ingress(door, &rules, &self.ends)?,
        };
        let opening = Opening {
            lane: door.reporter.lane().clone(),
            mode: protection.mode(),
            rule,
            from: self.ends.from,
            to: self.ends.to,
            opened: self.since,
            traffic: Arc::default(),
        };
        let entry = door.worker.registry.register(door.worker.index, opening);
        match door.workload.rules.objection_since(&rules, &entry) {
            Some(cause) => Err(closed(cause)),
            None => Ok(Authorized {
                intercepted: self,
                rules,
                protection,
                entry,
            }),
        }
    }
}

/// The refusal of a connection that was not wanted any more before it was established.
pub(super) fn closed(cause: CloseCause) -> Cause {
    let detail = "it is not wanted any more; it was not established yet";
    Cause::new(RefusalReason::Closed(cause), detail)
}

fn egress(door: &Door, rules: &Rules, ends: &Ends) -> Result<(RuleRef, Protection), Cause> {
    if let Some(NamedListener { listen, .. }) = door.listener.as_deref() {
        let listen = *listen;
        let (index, EgressListener { peers, .. }) = rules
            .listener(listen)
            .ok_or_else(|| closed(CloseCause::RuleChanged))?;
        // Whatever its name leads to: no answer of a resolver makes this anything but mutual TLS.
        let protection = Protection::Tls {
            mode: Mode::Mtls,
            tls: usable(door, SystemTime::now())?,
            peers: peers.clone(),
        };
        return Ok((RuleRef::Listener { index, listen }, protection));
    }
    let decision = rules.egress.decide(ends.to);
    let protection = match decision.mode {
        EgressMode::Mtls => Protection::Tls {
            mode: Mode::Mtls,
            tls: usable(door, SystemTime::now())?,
            peers: decision.peers.clone(),
        },
        EgressMode::Plaintext => Protection::Plaintext,
        EgressMode::Deny => {
            let detail = format!("{} says deny", decision.rule);
            return Err(Cause::new(RefusalReason::DeniedByRule, detail).under(decision.rule));
        }
    };
    Ok((decision.rule, protection))
}

fn ingress(door: &Door, rules: &Rules, ends: &Ends) -> Result<(RuleRef, Protection), Cause> {
    let decision = rules.ingress.decide(ends.to.port());
    let mode = match decision.mode {
        IngressMode::Mtls => Mode::Mtls,
        IngressMode::Tls => Mode::Tls,
        IngressMode::Plaintext => {
            let detail = format!(
                "{} says plaintext, yet the kernel turned it here",
                decision.rule
            );
            return Err(Cause::new(RefusalReason::PlaintextPort, detail).under(decision.rule));
        }
    };
    let protection = Protection::Tls {
        mode,
        tls: usable(door, SystemTime::now())?,
        peers: decision.peers.clone(),
    };
    Ok((decision.rule, protection))
}

/// What the workload proves itself with.
pub(super) fn usable(door: &Door, now: SystemTime) -> Result<Arc<MeshTls>, Cause> {
    let credential = door.workload.credential.borrow();
    match credential.usable(now) {
        Ok(tls) => Ok(tls.clone()),
        Err(unusable) => Err(Cause::new(
            RefusalReason::Credential(unusable),
            "the workload can't prove itself; see /ready",
        )),
    }
}
