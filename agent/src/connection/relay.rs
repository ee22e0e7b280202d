use userspace_tls::{relay, relay_plaintext};

use super::{Door, close::CloseReason, handshake::Established, offload::Datapath};
use crate::registry;

impl Datapath {
    /// Moves the connection's bytes until it ends, and tells how it ended.
    pub(super) async fn run(self, door: &Door) {
        let Self { established, kind } = self;
        let Established {
            app,
            wire,
            session,
            client,
            rule,
            entry,
        } = established;
        let (name, why) = kind.as_strs();
        entry.set_datapath(registry::Datapath { name, why });
        let end = match session {
            Some(session) => relay(app, wire, session, entry.traffic()).await,
            None => relay_plaintext(app, wire, entry.traffic()).await,
        };
        drop(client);
        door.reporter.closed(&entry, rule, CloseReason::from(end));
    }
}
