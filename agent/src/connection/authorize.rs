use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::timeout;
use userspace_tls::MeshTls;

use super::{
    CloseCause, Door, NamedListener,
    intercept::{Ends, Intercepted},
    refusal::{Cause, Refusal, RefusalReason},
};
use crate::{
    config::EgressListener,
    policy::{
        Direction, DnsName, EgressMode, IngressMode, Mode, PeerSet, RuleRef, Undecided, Unknown,
    },
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
        allowed: Allowed,
    },
    /// In clear.
    Plaintext,
}

/// Who may be at the other end.
#[derive(Debug)]
pub(super) enum Allowed {
    /// These.
    Peers(PeerSet),
    /// Whom the rules by workload let answer: they are asked once it has proved who it is.
    ByWorkload,
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
    /// Asks the workload's rules, once the names that matter are known.
    pub(super) async fn authorize(self, door: &Door) -> Result<Authorized, Refusal> {
        let Ends { from, to, .. } = self.ends;
        let decided = match judge(door, &self.ends) {
            Err(Objection::Undecided(undecided)) => wait(door, &self.ends, undecided).await,
            Err(Objection::Refused(cause)) => Err(cause),
            Ok(judged) => Ok(judged),
        };
        decided
            .and_then(|judged| self.list(door, judged))
            .map_err(|cause| cause.between(Some(from), Some(to)))
    }

    fn list(self, door: &Door, judged: Judged) -> Result<Authorized, Cause> {
        let Judged {
            rules,
            rule,
            names,
            protection,
        } = judged;
        let opening = Opening {
            lane: door.reporter.lane().clone(),
            mode: protection.mode(),
            rule,
            names,
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

/// What the rules say of a connection.
struct Judged {
    rules: Arc<Rules>,
    rule: RuleRef,
    /// The names of the destination that they were asked for.
    names: Option<Arc<[DnsName]>>,
    protection: Protection,
}

/// Why they do not let it through, or not yet.
enum Objection {
    Refused(Cause),
    Undecided(Box<Undecided>),
}

impl From<Cause> for Objection {
    fn from(cause: Cause) -> Self {
        Self::Refused(cause)
    }
}

fn judge(door: &Door, ends: &Ends) -> Result<Judged, Objection> {
    let removed = || closed(CloseCause::WorkloadRemoved);
    let rules = door.workload.rules.get().ok_or_else(removed)?;
    let (rule, names, protection) = match door.direction {
        Direction::Egress => egress(door, &rules, ends)?,
        Direction::Ingress => {
            let (rule, protection) = ingress(door, &rules, ends)?;
            (rule, None, protection)
        }
    };
    Ok(Judged {
        rules,
        rule,
        names,
        protection,
    })
}

/// Waits until the names that may be the destination's are known.
async fn wait(door: &Door, ends: &Ends, first: Box<Undecided>) -> Result<Judged, Cause> {
    let mut undecided = first;
    let mut changed = door.workload.rules.subscribe();
    let known = timeout(PATIENCE, async {
        loop {
            // Again, for what has changed before anybody listened.
            undecided = match judge(door, ends) {
                Ok(judged) => return Ok(judged),
                Err(Objection::Refused(cause)) => return Err(cause),
                Err(Objection::Undecided(undecided)) => match undecided.why {
                    Unknown::Failed | Unknown::Unheard => return Err(unknown(*undecided)),
                    Unknown::Pending => undecided,
                },
            };
            if changed.changed().await.is_err() {
                return Err(closed(CloseCause::WorkloadRemoved));
            }
        }
    });
    match known.await {
        Ok(decided) => decided,
        Err(_) => Err(unknown(*undecided)),
    }
}

/// The refusal of a destination that a rule may be for.
pub(super) fn unknown(undecided: Undecided) -> Cause {
    let Undecided { rule, name, why } = undecided;
    let so_far = match why {
        Unknown::Pending => "is not looked up yet",
        Unknown::Failed => "can't be looked up",
        Unknown::Unheard => {
            "stands for names that only programs look up, and none was heard to be told of the address"
        }
    };
    let detail = format!("{rule} may be for the destination, but {name} {so_far}");
    Cause::new(RefusalReason::NameUnknown, detail).under(rule)
}

/// How long a connection waits for names to be looked up.
const PATIENCE: Duration = Duration::from_secs(10);

type Egress = (RuleRef, Option<Arc<[DnsName]>>, Protection);

fn egress(door: &Door, rules: &Rules, ends: &Ends) -> Result<Egress, Objection> {
    if let Some(NamedListener { listen, .. }) = door.listener.as_deref() {
        let listen = *listen;
        let (index, EgressListener { peers, .. }) = rules
            .listener(listen)
            .ok_or_else(|| closed(CloseCause::RuleChanged))?;
        // Whatever its name leads to: no answer of a resolver makes this anything but mutual TLS.
        let protection = Protection::Tls {
            mode: Mode::Mtls,
            tls: usable(door, SystemTime::now())?,
            allowed: Allowed::Peers(peers.clone()),
        };
        return Ok((RuleRef::Listener { index, listen }, None, protection));
    }
    if let Some(overhearing) = &rules.overhearing {
        overhearing.catch_up();
    }
    let names = rules.names_of(ends.to);
    let decided = rules.egress.decide(ends.to, names.known());
    let decision = decided.map_err(|undecided| Objection::Undecided(Box::new(undecided)))?;
    let is_mtls = decision.mode == EgressMode::Mtls;
    let by_workload = rules.egress.has_workloads()
        && (is_mtls || rules.await_proof(ends.to, names.known(), &decision));
    let protection = match decision.mode {
        _ if by_workload => Protection::Tls {
            mode: Mode::Mtls,
            tls: usable(door, SystemTime::now())?,
            allowed: Allowed::ByWorkload,
        },
        EgressMode::Mtls => Protection::Tls {
            mode: Mode::Mtls,
            tls: usable(door, SystemTime::now())?,
            allowed: Allowed::Peers(decision.peers.clone()),
        },
        EgressMode::Plaintext => Protection::Plaintext,
        EgressMode::Deny => {
            let detail = format!("{} says deny", decision.rule);
            let cause = Cause::new(RefusalReason::DeniedByRule, detail);
            return Err(cause.under(decision.rule).into());
        }
    };
    Ok((decision.rule, names.all(), protection))
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
        allowed: Allowed::Peers(decision.peers.clone()),
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
