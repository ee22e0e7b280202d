//! Why a connection is as it is: `/explain`.
//!
//! A connection and a refusal are told of as they were decided; a question is answered by the rules
//! in force, and nothing is opened for it.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use attestation::identity::SpiffeId;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{AdminState, rfc3339};
use crate::advice::Advice;
use crate::bpf::AddressPrefix;
use crate::certificates::Credential;
use crate::config::Enforcement;
use crate::connection::{CloseCause, RefusalReason};
use crate::kernel_tls::KernelTls;
use crate::netns::Interfaces;
use crate::policy::{Direction, EgressMode, IngressMode, PeerSet, RuleRef, Undecided, Unknown};
use crate::refusals::{NoRefusalId, RefusalCode, RefusalId, Refused, UnknownRefusal};
use crate::registry::{Connection, Ended, NoConnectionId, State};
use crate::rules::Rules;
use crate::workload::Workload;

/// What `/explain` is asked: a connection, a refusal, or where a connection would go.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    connection: Option<String>,
    refusal: Option<String>,
    from: Option<String>,
    to: Option<String>,
    workload: Option<String>,
    direction: Option<Direction>,
}

/// Why there is no explanation.
#[derive(Debug, Error)]
pub(super) enum Unexplained {
    #[error(
        "ask /explain?connection=ID, ?refusal=rID, or ?from=WORKLOAD&to=ADDRESS:PORT with \
         &workload=NAME and &direction=ingress|egress where needed"
    )]
    Question,
    #[error("connection {0:?} {1}")]
    ConnectionId(String, NoConnectionId),
    #[error("refusal {0:?} {1}")]
    RefusalId(String, NoRefusalId),
    #[error(
        "connection {0} is not open, and none of those that ended last: the log has its line, or it \
         never was"
    )]
    NoConnection(String),
    #[error(transparent)]
    NoRefusal(#[from] UnknownRefusal),
    #[error("to {0:?} is no address and port, such as 10.0.0.2:5432 or [fd00::2]:5432")]
    To(String),
    #[error(
        "from {0:?} is no address, no SPIFFE ID and no workload of this agent's, which are {1}"
    )]
    From(String, Names),
    #[error("workload {0:?} is none of this agent's, which are {1}")]
    NoWorkload(String, Names),
    #[error("which workload? Name one with workload: {0}")]
    Ambiguous(Names),
}

impl Unexplained {
    /// The status that goes with it.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoConnection(_) | Self::NoRefusal(_) | Self::NoWorkload(..) => {
                StatusCode::NOT_FOUND
            }
            Self::Question
            | Self::ConnectionId(..)
            | Self::RefusalId(..)
            | Self::To(_)
            | Self::From(..)
            | Self::Ambiguous(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// The names of some workloads, for a message: a few, and how many more.
#[derive(Debug)]
pub(super) struct Names(Vec<String>);

impl Names {
    fn of(workloads: &[Arc<Workload>]) -> Self {
        Self(workloads.iter().map(|it| it.name.to_string()).collect())
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(names) = self;
        let shown = names.len().min(MOST_NAMES);
        f.write_str(&names[..shown].join(", "))?;
        match names.len() - shown {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    /// What is explained, in words.
    about: String,
    outcome: Outcome,
    workload: String,
    direction: Direction,
    from: Option<String>,
    to: Option<SocketAddr>,
    /// When it was refused, or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// How its bytes travel.
    mode: Option<&'static str>,
    rule: Option<RuleView>,
    certificate: CertificateView,
    datapath: Option<DatapathView>,
    kernel_tls: KernelTlsView,
    refusal: Option<RefusalView<'static>>,
    /// What else is worth knowing.
    notes: Vec<Cow<'static, str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Handshaking,
    Open,
    Ended,
    Refused,
    WouldBeLetThrough,
    WouldBeRefused,
    /// A rule by workload may let through what its destination alone has refused.
    DependsOnPeer,
    /// The agent would not see it.
    NotSteered,
}

#[derive(Debug, Serialize)]
struct RuleView {
    name: RuleRef,
    /// Where it stands in the configuration.
    place: String,
    /// Whom it allows, by the rules in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    peers: Option<PeerSet>,
}

impl RuleView {
    fn of(rule: RuleRef) -> Self {
        let place = match rule {
            RuleRef::Ingress { index, .. } => nth(index, "[[workload.ingress]]"),
            RuleRef::IngressDefault => {
                "ingress_default, as no [[workload.ingress]] has the port".into()
            }
            RuleRef::Egress { index, .. } => nth(index, "[[workload.egress]]"),
            RuleRef::EgressDefault => {
                "egress_default, as no [[workload.egress]] has the destination".into()
            }
            RuleRef::Listener { index, .. } => nth(index, "[[workload.listener]]"),
        };
        Self {
            name: rule,
            place,
            peers: None,
        }
    }

    fn with_peers(self, peers: &PeerSet) -> Self {
        Self {
            peers: Some(peers.clone()),
            ..self
        }
    }
}

fn nth(index: usize, table: &str) -> String {
    format!(
        "number {} of the workload's {table}, counted from 1",
        index + 1
    )
}

#[derive(Debug, Default, Serialize)]
struct CertificateView {
    /// The workload's own.
    identity: Option<String>,
    /// Until when the one is valid that the workload has now.
    not_after: Option<String>,
    /// The other side's.
    peer: Option<String>,
}

impl CertificateView {
    fn of(workload: Option<&Workload>) -> Self {
        let credential = workload.map(|workload| workload.credential.borrow());
        match credential.as_deref() {
            Some(Credential::Loaded(issued)) => Self {
                identity: Some(issued.identity().to_string()),
                not_after: rfc3339(issued.validity().not_after),
                peer: None,
            },
            Some(Credential::Missing(_)) | None => Self::default(),
        }
    }
}

#[derive(Debug, Serialize)]
struct DatapathView {
    name: &'static str,
    why: &'static str,
    means: &'static str,
    local_hop: Option<&'static str>,
    local_hop_why: Option<&'static str>,
}

/// What the operator wants of the kernel's TLS, and what this kernel can.
#[derive(Debug, Serialize)]
struct KernelTlsView {
    offload: &'static str,
    send: String,
    receive: String,
}

impl KernelTlsView {
    fn of(kernel_tls: &KernelTls) -> Self {
        let capabilities = kernel_tls.capabilities();
        Self {
            offload: kernel_tls.choice().as_str(),
            send: capabilities.tx_verdict().why,
            receive: capabilities.rx_verdict().why,
        }
    }
}

#[derive(Debug, Serialize)]
struct RefusalView<'a> {
    code: &'static str,
    detail: Cow<'a, str>,
    #[serde(flatten)]
    advice: Advice,
    /// Where the book says more.
    docs: String,
}

impl<'a> RefusalView<'a> {
    fn of(code: RefusalCode, detail: impl Into<Cow<'a, str>>) -> Self {
        Self {
            code: code.as_str(),
            detail: detail.into(),
            advice: code.advice(),
            docs: code.docs(),
        }
    }
}

/// A refusal as `/refusals` shows it.
#[derive(Debug, Serialize)]
pub(super) struct RefusedView<'a> {
    id: RefusalId,
    at: Option<String>,
    workload: &'a str,
    direction: Direction,
    from: Option<SocketAddr>,
    to: Option<SocketAddr>,
    rule: Option<RuleRef>,
    #[serde(flatten)]
    refusal: RefusalView<'a>,
}

impl<'a> From<&'a Refused> for RefusedView<'a> {
    fn from(Refused { id, what }: &'a Refused) -> Self {
        Self {
            id: *id,
            at: rfc3339(what.at),
            workload: &what.workload,
            direction: what.direction,
            from: what.from,
            to: what.to,
            rule: what.rule.clone(),
            refusal: RefusalView::of(what.code, what.detail.as_str()),
        }
    }
}

/// Answers the question.
pub(super) fn explain(state: &AdminState, query: Query) -> Result<Explanation, Unexplained> {
    let workloads = state.workloads.borrow().clone();
    match query {
        Query {
            connection: Some(id),
            refusal: None,
            from: None,
            to: None,
            workload: None,
            direction: None,
        } => {
            let parsed = id.parse();
            let parsed = parsed.map_err(|error| Unexplained::ConnectionId(id.clone(), error))?;
            let found = state.registry.find(parsed);
            let connection = found.ok_or(Unexplained::NoConnection(id))?;
            Ok(of_connection(state, &workloads, &connection))
        }
        Query {
            connection: None,
            refusal: Some(id),
            from: None,
            to: None,
            workload: None,
            direction: None,
        } => {
            let parsed = id.parse();
            let parsed = parsed.map_err(|error| Unexplained::RefusalId(id, error))?;
            Ok(of_refusal(state, &workloads, &*state.refusals.get(parsed)?))
        }
        Query {
            connection: None,
            refusal: None,
            from,
            to: Some(to),
            workload,
            direction,
        } => {
            let question = Question::new(&workloads, from, &to, workload.as_deref(), direction)?;
            Ok(question.answer(state, SystemTime::now()))
        }
        _ => Err(Unexplained::Question),
    }
}

fn of_connection(
    state: &AdminState,
    workloads: &[Arc<Workload>],
    connection: &Connection,
) -> Explanation {
    let view = connection.view(std::time::Instant::now());
    let mut certificate = CertificateView::of(find(workloads, connection.workload()));
    if let Some(established) = connection.established() {
        certificate.identity = Some(established.identity.to_string());
        certificate.peer = established.peer.as_ref().map(ToString::to_string);
    }
    let mut notes = Vec::new();
    if let (Some(key_exchange), Some(cipher)) = (view.key_exchange, view.cipher) {
        notes.push(format!("key exchange {key_exchange}, cipher {cipher}").into());
    }
    let ended = connection.ended();
    if let Some(Ended { close, .. }) = ended {
        notes.push(format!("it ended as {}: {}", close.as_str(), close.means()).into());
        notes.push(format!("bytes sent {}, received {}", view.sent, view.received).into());
    } else if let Some(cause) = connection.stop().cause() {
        notes.push(format!("it is being closed: {}", cause.as_str()).into());
    }
    Explanation {
        about: format!("connection {}", connection.id()),
        outcome: match (ended, view.state) {
            (Some(_), _) => Outcome::Ended,
            (None, State::Handshaking) => Outcome::Handshaking,
            (None, State::Open) => Outcome::Open,
        },
        workload: connection.workload().to_owned(),
        direction: connection.direction(),
        from: Some(connection.from().to_string()),
        to: Some(connection.to()),
        at: ended.and_then(|it| rfc3339(connection.at(it.after_ms))),
        mode: Some(connection.mode().as_str()),
        rule: Some(RuleView::of(connection.rule().clone())),
        certificate,
        datapath: connection.datapath().map(|datapath| DatapathView {
            name: datapath.name,
            why: datapath.why,
            means: datapath.means,
            local_hop: view.local_hop,
            local_hop_why: view.local_hop_why,
        }),
        kernel_tls: KernelTlsView::of(&state.kernel_tls),
        refusal: None,
        notes,
    }
}

fn of_refusal(state: &AdminState, workloads: &[Arc<Workload>], refused: &Refused) -> Explanation {
    let Refused { id, what } = refused;
    Explanation {
        about: format!("refusal {id}"),
        outcome: Outcome::Refused,
        workload: what.workload.to_string(),
        direction: what.direction,
        from: what.from.map(|from| from.to_string()),
        to: what.to,
        at: rfc3339(what.at),
        mode: None,
        rule: what.rule.clone().map(RuleView::of),
        certificate: CertificateView::of(find(workloads, &what.workload)),
        datapath: None,
        kernel_tls: KernelTlsView::of(&state.kernel_tls),
        refusal: Some(RefusalView::of(what.code, what.detail.clone())),
        notes: Vec::new(),
    }
}

fn find<'a>(workloads: &'a [Arc<Workload>], name: &str) -> Option<&'a Workload> {
    let mut workloads = workloads.iter();
    workloads
        .find(|workload| workload.name.as_str() == name)
        .map(AsRef::as_ref)
}

/// Who would connect.
#[derive(Clone, Debug)]
enum Origin<'a> {
    Workload(&'a Workload),
    Identity(SpiffeId),
    Address(IpAddr),
}

impl<'a> Origin<'a> {
    fn parse(workloads: &'a [Arc<Workload>], text: &str) -> Option<Self> {
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
struct Question<'a> {
    workload: &'a Workload,
    direction: Direction,
    from: Option<String>,
    origin: Option<Origin<'a>>,
    to: SocketAddr,
}

impl<'a> Question<'a> {
    fn new(
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

    fn answer(self, state: &AdminState, now: SystemTime) -> Explanation {
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

    fn egress(&self, rules: &Rules) -> Verdict {
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

    fn ingress(&self, rules: &Rules) -> Verdict {
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
    fn mesh_objects(&self, peer: &SpiffeId) -> Option<String> {
        let credential = self.workload.credential.borrow();
        let Credential::Loaded(issued) = &*credential else {
            return None;
        };
        let objection = credential.objection(issued.identity(), Some(peer));
        objection.map(|_| format!("the manifest in force does not let {peer} meet the workload"))
    }

    /// Why nothing of the workload may begin, if nothing may.
    fn no_credential(&self, now: SystemTime) -> Option<(RefusalCode, String)> {
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
struct Verdict {
    outcome: Outcome,
    mode: Option<&'static str>,
    rule: Option<RuleView>,
    refusal: Option<RefusalView<'static>>,
    notes: Vec<Cow<'static, str>>,
}

impl Verdict {
    fn through(mode: &'static str, rule: RuleView) -> Self {
        Self {
            outcome: Outcome::WouldBeLetThrough,
            mode: Some(mode),
            rule: Some(rule),
            refusal: None,
            notes: Vec::new(),
        }
    }

    /// The workload went while it was asked about.
    fn removed() -> Self {
        let code = RefusalCode::Agent(RefusalReason::Closed(CloseCause::WorkloadRemoved));
        Self {
            outcome: Outcome::WouldBeRefused,
            mode: None,
            rule: None,
            refusal: Some(RefusalView::of(code, "it is not served any more")),
            notes: Vec::new(),
        }
    }

    fn not_steered(why: &'static str) -> Self {
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
fn side<'a>(
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
fn addresses(workload: &Workload) -> Vec<IpAddr> {
    let interfaces = workload.netns.run(Interfaces::list).unwrap_or_default();
    let own = interfaces.addresses.into_iter().filter(|it| it.local);
    own.map(|AddressPrefix { address, .. }| address).collect()
}

const MOST_NAMES: usize = 20;

#[cfg(test)]
mod tests;
