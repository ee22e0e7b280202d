//! Connections to an address of the loopback that stands for a host elsewhere.

use std::time::{Instant, SystemTime};

use tokio::{net::TcpStream, time::timeout};

use super::{
    Door,
    dial::{self, DialError},
    intercept::{Ends, Intercepted},
    refusal::{Cause, Refusal, RefusalReason},
};
use crate::{config::EgressListener, names::Names, policy::RuleRef};

/// A listener that the configuration names, and who knows where it leads.
#[derive(Debug)]
pub(crate) struct NamedListener {
    /// Which of the workload's.
    pub index: usize,
    /// What the configuration says of it.
    pub rule: EgressListener,
    /// Looks up its host.
    pub names: std::rc::Rc<Names>,
}

impl NamedListener {
    /// How logs name it.
    pub(super) fn rule_ref(&self) -> RuleRef {
        RuleRef::Listener {
            index: self.index,
            listen: self.rule.listen,
        }
    }
}

impl Intercepted {
    /// Finds out where the listener leads now, and connects to the first address that answers.
    pub(super) async fn forward(
        stream: TcpStream,
        door: &Door,
        listener: &NamedListener,
    ) -> Result<Self, Refusal> {
        let since = Instant::now();
        let NamedListener { rule, names, .. } = listener;
        let listen = rule.listen.into();
        let from = stream.peer_addr().map_err(|error| {
            let detail = format!("reading the socket's addresses: {error}");
            Cause::new(RefusalReason::NoOriginalDestination, detail)
                .under(listener.rule_ref())
                .between(None, Some(listen))
        })?;
        let refused_to = |to, cause: Cause| {
            cause
                .under(listener.rule_ref())
                .between(Some(from), Some(to))
        };
        let failed = |cause: Cause| {
            let detail = format!("{} of {}: {}", rule.remote, rule.listen, cause.detail);
            Cause { detail, ..cause }
        };
        // Without a certificate there is no TCP at all.
        super::authorize::usable(door, SystemTime::now())
            .map_err(|cause| refused_to(listen, cause))?;
        let addresses = names.look_up(&rule.remote).await.map_err(|error| {
            let cause = Cause::new(RefusalReason::NameLookup, error.to_string());
            refused_to(listen, failed(cause))
        })?;
        let mut refused = None;
        for to in addresses {
            match timeout(PATIENCE, dial::wire(door, to, None)).await {
                Ok(Ok(wire)) => {
                    let ends = Ends {
                        from,
                        to,
                        from_is_own: false,
                    };
                    return Ok(Self {
                        stream,
                        ends,
                        since,
                        dialled: Some(wire),
                    });
                }
                Ok(Err(error)) => refused = Some((to, Cause::from(error))),
                Err(_) => refused = Some((to, Cause::from(DialError::timeout()))),
            }
        }
        let (to, cause) = refused.map_or_else(
            || (listen, Cause::new(RefusalReason::NameLookup, "no address")),
            |(to, cause)| (to, failed(cause)),
        );
        Err(refused_to(to, cause))
    }
}

/// How long one of several addresses may take to answer, as in Envoy.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
