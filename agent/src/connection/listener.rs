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
    /// Looks up its host.
    pub names: std::rc::Rc<Names>,
}

impl NamedListener {
    /// What the configuration says of it.
    pub(super) fn rule<'a>(&self, door: &'a Door) -> Option<&'a EgressListener> {
        door.workload.listeners.get(self.index)
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
        let from = stream.peer_addr().ok();
        let Some(rule) = listener.rule(door) else {
            let cause = Cause::new(RefusalReason::NoOriginalDestination, "no such listener");
            return Err(cause.between(from, None));
        };
        let listen = rule.listen.into();
        let Some(from) = from else {
            let cause = Cause::new(RefusalReason::NoOriginalDestination, "the program has gone");
            return Err(cause.between(None, Some(listen)));
        };
        let failed = |cause: Cause| {
            let Cause { reason, detail } = cause;
            let detail = format!("{} of {}: {detail}", rule.remote, rule.listen);
            Cause { reason, detail }
        };
        // Without a certificate there is no TCP at all.
        super::authorize::usable(door, SystemTime::now())
            .map_err(|cause| cause.between(Some(from), Some(listen)))?;
        let addresses = listener
            .names
            .look_up(&rule.remote)
            .await
            .map_err(|error| {
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
