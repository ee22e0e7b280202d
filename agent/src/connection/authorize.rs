use std::{sync::Arc, time::SystemTime};

use userspace_tls::MeshTls;

use super::{
    Door,
    intercept::{Ends, Intercepted},
    refusal::{Cause, Refusal, RefusalReason},
};
use crate::{
    config::EgressListener,
    policy::{Direction, EgressMode, IngressMode, Mode, PeerSet, RuleRef},
    registry::{Opening, Registration},
};

/// A connection that a rule lets through, with who the peer must be.
#[derive(Debug)]
pub(super) struct Authorized<'a> {
    pub(super) intercepted: Intercepted,
    pub(super) rule: RuleRef,
    pub(super) protection: Protection<'a>,
    pub(super) entry: Registration,
}

/// How the rule wants the bytes to travel.
#[derive(Debug)]
pub(super) enum Protection<'a> {
    /// TLS, with what the workload proves itself with and whom it accepts.
    Tls {
        mode: Mode,
        tls: Arc<MeshTls>,
        peers: &'a PeerSet,
    },
    /// In clear.
    Plaintext,
}

impl Protection<'_> {
    pub(super) fn mode(&self) -> Mode {
        match self {
            Self::Tls { mode, .. } => *mode,
            Self::Plaintext => Mode::Plaintext,
        }
    }
}

impl Intercepted {
    /// Asks the workload's rules.
    pub(super) fn authorize(self, door: &Door) -> Result<Authorized<'_>, Refusal> {
        let decided = match door.direction {
            Direction::Egress => egress(door, &self.ends),
            Direction::Ingress => ingress(door, &self.ends),
        };
        match decided {
            Ok((rule, protection)) => {
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
                Ok(Authorized {
                    intercepted: self,
                    rule,
                    protection,
                    entry,
                })
            }
            Err(cause) => Err(cause.between(Some(self.ends.from), Some(self.ends.to))),
        }
    }
}

fn egress<'a>(door: &'a Door, ends: &Ends) -> Result<(RuleRef, Protection<'a>), Cause> {
    if let Some(listener) = &door.listener {
        let EgressListener { peers, .. } = &listener.rule;
        // Whatever its name leads to: no answer of a resolver makes this anything but mutual TLS.
        let protection = Protection::Tls {
            mode: Mode::Mtls,
            tls: usable(door, SystemTime::now())?,
            peers,
        };
        return Ok((listener.rule_ref(), protection));
    }
    let decision = door.workload.egress.decide(ends.to);
    let protection = match decision.mode {
        EgressMode::Mtls => Protection::Tls {
            mode: Mode::Mtls,
            tls: usable(door, SystemTime::now())?,
            peers: decision.peers,
        },
        EgressMode::Plaintext => Protection::Plaintext,
        EgressMode::Deny => {
            let detail = format!("{} says deny", decision.rule);
            return Err(Cause::new(RefusalReason::DeniedByRule, detail).under(decision.rule));
        }
    };
    Ok((decision.rule, protection))
}

fn ingress<'a>(door: &'a Door, ends: &Ends) -> Result<(RuleRef, Protection<'a>), Cause> {
    let decision = door.workload.ingress.decide(ends.to.port());
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
        peers: decision.peers,
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
