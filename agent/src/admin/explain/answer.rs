//! What `/explain` and `/refusals` answer, as they show it.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::Serialize;

use super::super::rfc3339;
use crate::advice::Advice;
use crate::certificates::Credential;
use crate::kernel_tls::KernelTls;
use crate::policy::{Direction, PeerSet, RuleRef};
use crate::refusals::{RefusalCode, RefusalId, Refused};
use crate::workload::Workload;

/// The answer.
#[derive(Debug, Serialize)]
pub(in crate::admin) struct Explanation {
    /// What is explained, in words.
    pub(super) about: String,
    pub(super) outcome: Outcome,
    pub(super) workload: String,
    pub(super) direction: Direction,
    pub(super) from: Option<String>,
    pub(super) to: Option<SocketAddr>,
    /// When it was refused, or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<String>,
    /// How its bytes travel.
    pub(super) mode: Option<&'static str>,
    pub(super) rule: Option<RuleView>,
    pub(super) certificate: CertificateView,
    pub(super) datapath: Option<DatapathView>,
    pub(super) kernel_tls: KernelTlsView,
    pub(super) refusal: Option<RefusalView<'static>>,
    /// What else is worth knowing.
    pub(super) notes: Vec<Cow<'static, str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
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
pub(super) struct RuleView {
    pub(super) name: RuleRef,
    /// Where it stands in the configuration.
    pub(super) place: String,
    /// Whom it allows, by the rules in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peers: Option<PeerSet>,
}

impl RuleView {
    pub(super) fn of(rule: RuleRef) -> Self {
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

    pub(super) fn with_peers(self, peers: &PeerSet) -> Self {
        Self {
            peers: Some(peers.clone()),
            ..self
        }
    }
}

pub(super) fn nth(index: usize, table: &str) -> String {
    format!(
        "number {} of the workload's {table}, counted from 1",
        index + 1
    )
}

#[derive(Debug, Default, Serialize)]
pub(super) struct CertificateView {
    /// The workload's own.
    pub(super) identity: Option<String>,
    /// Until when the one is valid that the workload has now.
    pub(super) not_after: Option<String>,
    /// The other side's.
    pub(super) peer: Option<String>,
}

impl CertificateView {
    pub(super) fn of(workload: Option<&Workload>) -> Self {
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
pub(super) struct DatapathView {
    pub(super) name: &'static str,
    pub(super) why: &'static str,
    pub(super) means: &'static str,
    pub(super) local_hop: Option<&'static str>,
    pub(super) local_hop_why: Option<&'static str>,
}

/// What the operator wants of the kernel's TLS, and what this kernel can.
#[derive(Debug, Serialize)]
pub(super) struct KernelTlsView {
    pub(super) offload: &'static str,
    pub(super) send: String,
    pub(super) receive: String,
}

impl KernelTlsView {
    pub(super) fn of(kernel_tls: &KernelTls) -> Self {
        let capabilities = kernel_tls.capabilities();
        Self {
            offload: kernel_tls.choice().as_str(),
            send: capabilities.tx_verdict().why,
            receive: capabilities.rx_verdict().why,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct RefusalView<'a> {
    pub(super) code: &'static str,
    pub(super) detail: Cow<'a, str>,
    #[serde(flatten)]
    pub(super) advice: Advice,
    /// Where the book says more.
    pub(super) docs: String,
}

impl<'a> RefusalView<'a> {
    pub(super) fn of(code: RefusalCode, detail: impl Into<Cow<'a, str>>) -> Self {
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
pub(in crate::admin) struct RefusedView<'a> {
    pub(super) id: RefusalId,
    pub(super) at: Option<String>,
    pub(super) workload: &'a str,
    pub(super) direction: Direction,
    pub(super) from: Option<SocketAddr>,
    pub(super) to: Option<SocketAddr>,
    pub(super) rule: Option<RuleRef>,
    #[serde(flatten)]
    pub(super) refusal: RefusalView<'a>,
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
