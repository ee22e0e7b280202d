//! Connections to an address of the loopback that stands for a host elsewhere.

use std::time::{Instant, SystemTime};

use tokio::{net::TcpStream, time::timeout};

use super::{
    Door,
    dial::{self, DialError},
    intercept::{Ends, Intercepted},
    refusal::{Cause, Refusal, RefusalReason},
};
use crate::{config::EgressListener, names::Names};

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
            Cause::new(RefusalReason::NoOriginalDestination, detail).between(None, Some(listen))
        })?;
        let failed = |cause: Cause| {
            let Cause { reason, detail } = cause;
            let detail = format!("{} of {}: {detail}", rule.remote, rule.listen);
            Cause { reason, detail }
        };
        // Without a certificate there is no TCP at all.
        super::authorize::usable(door, SystemTime::now())
            .map_err(|cause| cause.between(Some(from), Some(listen)))?;
        let addresses = names.look_up(&rule.remote).await.map_err(|error| {
            let cause = Cause::new(RefusalReason::NameLookup, error.to_string());
            failed(cause).between(Some(from), Some(listen))
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
        Err(cause.between(Some(from), Some(to)))
    }
}

/// How long one of several addresses may take to answer, as in Envoy.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
