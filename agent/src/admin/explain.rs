//! Why a connection is as it is: `/explain`.
//!
//! A connection and a refusal are told of as they were decided; a question is answered by the rules
//! in force, and nothing is opened for it.

mod answer;
mod question;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use axum::http::StatusCode;
use serde::Deserialize;
use thiserror::Error;

use super::{AdminState, rfc3339};
use crate::policy::Direction;
use crate::refusals::{NoRefusalId, Refused, UnknownRefusal};
use crate::registry::{Connection, Ended, NoConnectionId, State};
use crate::workload::Workload;

use answer::{CertificateView, DatapathView, KernelTlsView, Outcome, RefusalView, RuleView};
pub(super) use answer::{Explanation, RefusedView};
use question::Question;

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

const MOST_NAMES: usize = 20;

#[cfg(test)]
mod tests;
