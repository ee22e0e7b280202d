//! Connections to an address of the loopback that stands for a host elsewhere.

use std::{
    net::{SocketAddr, SocketAddrV4},
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{net::TcpStream, time::timeout};

use super::{
    CloseCause, Door,
    dial::{self, DialError},
    intercept::{Ends, Intercepted},
    refusal::{Cause, Refusal, RefusalReason},
};
use crate::{names::Names, policy::RuleRef};

/// A listener that the configuration names, and who knows where it leads.
#[derive(Debug)]
pub(crate) struct NamedListener {
    /// What the program dials; the rules say where it leads.
    pub listen: SocketAddrV4,
    /// Looks up its host.
    pub names: Rc<Names>,
}

impl Intercepted {
    /// Finds out where the listener leads now, and connects to the first address that answers.
    pub(super) async fn forward(
        stream: TcpStream,
        door: &Door,
        listener: &NamedListener,
    ) -> Result<Self, Refusal> {
        let since = Instant::now();
        let NamedListener { listen, names } = listener;
        let rules = door.workload.rules.get();
        let (listen, rule) = (
            SocketAddr::from(*listen),
            rules.as_ref().and_then(|rules| rules.listener(*listen)),
        );
        let from = stream.peer_addr().map_err(|error| {
            let detail = format!("reading the socket's addresses: {error}");
            Cause::new(RefusalReason::NoOriginalDestination, detail).between(None, Some(listen))
        })?;
        let (index, rule) = rule.ok_or_else(|| {
            let cause = super::authorize::closed(CloseCause::RuleChanged);
            cause.between(Some(from), Some(listen))
        })?;
        let refused_to = |to, cause: Cause| {
            let listen = rule.listen;
            cause
                .under(RuleRef::Listener { index, listen })
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
const PATIENCE: Duration = Duration::from_secs(5);
