//! A connection that is not there: what the rules in force say of it.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use attestation::identity::SpiffeId;

use super::answer::{CertificateView, Explanation, KernelTlsView, Outcome, RefusalView, RuleView};
use super::{AdminState, Names, Unexplained, find};
use crate::bpf::AddressPrefix;
use crate::certificates::Credential;
use crate::config::Enforcement;
use crate::connection::{CloseCause, RefusalReason};
use crate::netns::Interfaces;
use crate::policy::{Direction, EgressMode, IngressMode, RuleRef, Undecided, Unknown};
use crate::refusals::RefusalCode;
use crate::rules::Rules;
use crate::workload::Workload;

/// Who would connect.
#[derive(Clone, Debug)]
pub(super) enum Origin<'a> {
    Workload(&'a Workload),
    Identity(SpiffeId),
    Address(IpAddr),
}

impl<'a> Origin<'a> {
    pub(super) fn parse(workloads: &'a [Arc<Workload>], text: &str) -> Option<Self> {
        if let Some(workload) = find(workloads, text) {
            return Some(Self::Workload(workload));
        }
        if let Ok(id) = text.parse::<SpiffeId>() {
            return Some(Self::Identity(id));
        }
        let with_port = text.parse().map(|address: SocketAddr| address.ip());
        let address = with_port.or_else(|_| text.parse()).ok()?;
        Some(Self::Address(address.to_canonical()))
    }
}

/// What a connection would meet.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) workload: &'a Workload,
    pub(super) direction: Direction,
    pub(super) from: Option<String>,
    pub(super) origin: Option<Origin<'a>>,
    pub(super) to: SocketAddr,
}

impl<'a> Question<'a> {
    pub(super) fn new(
        workloads: &'a [Arc<Workload>],
        from: Option<String>,
        to: &str,
        workload: Option<&str>,
        direction: Option<Direction>,
    ) -> Result<Self, Unexplained> {
        let all = || Names::of(workloads);
        let to: SocketAddr = to.parse().map_err(|_| Unexplained::To(to.to_owned()))?;
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let origin = from.as_ref().map(|text| {
            let origin = Origin::parse(workloads, text);
            origin.ok_or_else(|| Unexplained::From(text.clone(), all()))
        });
        let origin = origin.transpose()?;
        let chosen = workload.map(|name| {
            let found = find(workloads, name);
            found.ok_or_else(|| Unexplained::NoWorkload(name.to_owned(), all()))
        });
        let chosen = chosen.transpose()?;
        let (chosen, implied) = match (&origin, chosen) {
            (Some(Origin::Workload(from)), None) => (Some(*from), Some(Direction::Egress)),
            (Some(Origin::Identity(_)), chosen) => (chosen, Some(Direction::Ingress)),
            (_, chosen) => (chosen, None),
        };
        let direction = direction.or(implied);
        let candidates = match chosen {
            Some(chosen) => vec![chosen],
            None => workloads.iter().map(AsRef::as_ref).collect(),
        };
        let (workload, direction) = match (&candidates[..], direction) {
            ([one], Some(direction)) => (*one, direction),
            (candidates, direction) => {
                let sides = candidates
                    .iter()
                    .filter_map(|it| side(it, origin.as_ref(), to));
                let fits = |side: Direction| direction.is_none_or(|wanted| wanted == side);
                let by_address = sides.into_iter().find(|(_, side)| fits(*side));
                let only = candidates.first().filter(|_| candidates.len() == 1);
                by_address
                    .or_else(|| only.map(|one| (*one, Direction::Egress)))
                    .ok_or_else(|| Unexplained::Ambiguous(all()))?
            }
        };
        Ok(Self {
            workload,
            direction,
            from,
            origin,
            to,
        })
    }

    pub(super) fn answer(self, state: &AdminState, now: SystemTime) -> Explanation {
        let verdict = match (self.workload.rules.get(), self.direction) {
            (Some(rules), Direction::Egress) => self.egress(&rules),
            (Some(rules), Direction::Ingress) => self.ingress(&rules),
            (None, _) => Verdict::removed(),
        };
        let Verdict {
            mut outcome,
            mode,
            rule,
            mut refusal,
            mut notes,
        } = verdict;
        let may_begin = matches!(outcome, Outcome::WouldBeLetThrough | Outcome::DependsOnPeer);
        if may_begin && let Some((code, why)) = self.no_credential(now) {
            outcome = Outcome::WouldBeRefused;
            refusal = Some(RefusalView::of(code, why));
        }
        if outcome == Outcome::WouldBeLetThrough {
            notes.push("as far as the rules go: nothing was dialled, and no peer was met".into());
        }
        Explanation {
            about: "a new connection, by the rules in force".to_owned(),
            outcome,
            workload: self.workload.name.to_string(),
            direction: self.direction,
            from: self.from,
            to: Some(self.to),
            at: None,
            mode,
            rule,
            certificate: CertificateView::of(Some(self.workload)),
            datapath: None,
            kernel_tls: KernelTlsView::of(&state.kernel_tls),
            refusal,
            notes,
        }
    }

    pub(super) fn egress(&self, rules: &Rules) -> Verdict {
        let listener = match self.to {
            SocketAddr::V4(to) => rules.listener(to),
            SocketAddr::V6(_) => None,
        };
        if let Some((index, listener)) = listener {
            let rule = RuleRef::Listener {
                index,
                listen: listener.listen,
            };
            return Verdict {
                notes: vec![format!("it leads to {}", listener.remote).into()],
                ..Verdict::through("mtls", RuleView::of(rule).with_peers(&listener.peers))
            };
        }
        if self.to.ip().is_loopback() || addresses(self.workload).contains(&self.to.ip()) {
            return Verdict::not_steered("it stays within the workload's namespace");
        }
        if let Some(overhearing) = &rules.overhearing {
            overhearing.catch_up();
        }
        let names = rules.names_of(self.to);
        let decision = match rules.egress.decide(self.to, names.known()) {
            Ok(decision) => decision,
            Err(Undecided { rule, name, why }) => {
                let why = match why {
                    Unknown::Pending | Unknown::Failed => {
                        format!("{name} may have the destination's address, and is not known")
                    }
                    Unknown::Unheard => format!(
                        "a name of {name} may have the destination's address: no program was heard to \
                         be told of it"
                    ),
                };
                let code = RefusalCode::Agent(RefusalReason::NameUnknown);
                return Verdict {
                    outcome: Outcome::WouldBeRefused,
                    refusal: Some(RefusalView::of(code, why)),
                    ..Verdict::through("unknown", RuleView::of(rule))
                };
            }
        };
        let rule = RuleView::of(decision.rule.clone()).with_peers(decision.peers);
        let by_workload = rules.egress.if_proved(self.to, names.known(), &decision);
        let by_workload: Vec<_> = by_workload
            .map(|it| format!("{} says {}, if it answers", it.rule, it.mode.as_str()).into())
            .collect();
        match decision.mode {
            EgressMode::Mtls => Verdict {
                notes: by_workload,
                ..Verdict::through(decision.mode.as_str(), rule)
            },
            _ if !by_workload.is_empty() => Verdict {
                outcome: Outcome::DependsOnPeer,
                notes: by_workload,
                ..Verdict::through(EgressMode::Mtls.as_str(), rule)
            },
            EgressMode::Plaintext => Verdict::through(decision.mode.as_str(), rule),
            EgressMode::Deny => Verdict {
                outcome: Outcome::WouldBeRefused,
                refusal: Some(RefusalView::of(
                    RefusalCode::Agent(RefusalReason::DeniedByRule),
                    format!("{} says deny", decision.rule),
                )),
                ..Verdict::through(decision.mode.as_str(), rule)
            },
        }
    }

    pub(super) fn ingress(&self, rules: &Rules) -> Verdict {
        let decision = rules.ingress.decide(self.to.port());
        let rule = RuleView::of(decision.rule.clone()).with_peers(decision.peers);
        let through = Verdict::through(decision.mode.as_str(), rule);
        let peer = match &self.origin {
            Some(Origin::Identity(peer)) => Some(peer),
            Some(Origin::Workload(_) | Origin::Address(_)) | None => None,
        };
        match (decision.mode, peer) {
            (IngressMode::Plaintext, _) => Verdict {
                outcome: Outcome::NotSteered,
                notes: vec![
                    "the rule leaves the port alone: it reaches the program in clear".into(),
                ],
                ..through
            },
            (IngressMode::Mtls, Some(peer)) => {
                let by_rule = (!decision.peers.allows(peer)).then(|| {
                    format!(
                        "{peer} is not among the peers of {}: {}",
                        decision.rule, decision.peers
                    )
                });
                let (dry, by_rule) = match rules.enforcement {
                    Enforcement::DryRun => (by_rule, None),
                    Enforcement::Enforced => (None, by_rule),
                };
                let notes = dry.map(|why| format!("{why}; dry_run lets it through").into());
                let judged = Verdict {
                    notes: notes.into_iter().collect(),
                    ..through
                };
                match by_rule.or_else(|| self.mesh_objects(peer)) {
                    Some(detail) => Verdict {
                        outcome: Outcome::WouldBeRefused,
                        refusal: Some(RefusalView::of(
                            RefusalCode::Agent(RefusalReason::PeerNotAllowed),
                            detail,
                        )),
                        ..judged
                    },
                    None => judged,
                }
            }
            (IngressMode::Mtls | IngressMode::Tls, _) => through,
        }
    }

    /// What the mesh has against this peer.
    pub(super) fn mesh_objects(&self, peer: &SpiffeId) -> Option<String> {
        let credential = self.workload.credential.borrow();
        let Credential::Loaded(issued) = &*credential else {
            return None;
        };
        let objection = credential.objection(issued.identity(), Some(peer));
        objection.map(|_| format!("the manifest in force does not let {peer} meet the workload"))
    }

    /// Why nothing of the workload may begin, if nothing may.
    pub(super) fn no_credential(&self, now: SystemTime) -> Option<(RefusalCode, String)> {
        let why = self.workload.explain_refusals(now)?;
        let code = match self.workload.credential.borrow().usable(now) {
            Err(unusable) => RefusalCode::Agent(RefusalReason::Credential(unusable)),
            Ok(_) => RefusalCode::Kernel(ebpf_abi::KernelRefusal::NoCredential),
        };
        Some((code, why))
    }
}

/// What the rules say.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) mode: Option<&'static str>,
    pub(super) rule: Option<RuleView>,
    pub(super) refusal: Option<RefusalView<'static>>,
    pub(super) notes: Vec<Cow<'static, str>>,
}

impl Verdict {
    pub(super) fn through(mode: &'static str, rule: RuleView) -> Self {
        Self {
            outcome: Outcome::WouldBeLetThrough,
            mode: Some(mode),
            rule: Some(rule),
            refusal: None,
            notes: Vec::new(),
        }
    }

    /// The workload went while it was asked about.
    pub(super) fn removed() -> Self {
        let code = RefusalCode::Agent(RefusalReason::Closed(CloseCause::WorkloadRemoved));
        Self {
            outcome: Outcome::WouldBeRefused,
            mode: None,
            rule: None,
            refusal: Some(RefusalView::of(code, "it is not served any more")),
            notes: Vec::new(),
        }
    }

    pub(super) fn not_steered(why: &'static str) -> Self {
        Self {
            outcome: Outcome::NotSteered,
            mode: None,
            rule: None,
            refusal: None,
            notes: vec![why.into()],
        }
    }
}

/// Which end of the connection the workload would be, by its addresses.
pub(super) fn side<'a>(
    workload: &'a Workload,
    origin: Option<&Origin<'_>>,
    to: SocketAddr,
) -> Option<(&'a Workload, Direction)> {
    let own = addresses(workload);
    match origin {
        Some(Origin::Address(from)) if own.contains(from) => Some((workload, Direction::Egress)),
        _ if own.contains(&to.ip()) => Some((workload, Direction::Ingress)),
        _ => None,
    }
}

/// The addresses of the workload's namespace; none if it can't be entered any more.
pub(super) fn addresses(workload: &Workload) -> Vec<IpAddr> {
    let interfaces = workload.netns.run(Interfaces::list).unwrap_or_default();
    let own = interfaces.addresses.into_iter().filter(|it| it.local);
    own.map(|AddressPrefix { address, .. }| address).collect()
}
