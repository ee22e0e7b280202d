use std::sync::Arc;

use userspace_tls::{Traffic, relay, relay_plaintext};

use super::{Door, close::CloseReason, handshake::Established, offload::Datapath};

impl Datapath {
    /// Moves the connection's bytes until it ends, and tells how it ended.
    pub(super) async fn run(self, door: &Door) {
        let Self { established, kind } = self;
        let Established { app, wire, session, about, client } = established;
        let about = Box::new(about);
        let traffic = Arc::new(Traffic::default());
        let entry = door.reporter.opened(&door.worker, &about, kind, traffic.clone());
        let end = match session {
            Some(session) => relay(app, wire, session, &traffic).await,
            None => relay_plaintext(app, wire, &traffic).await,
        };
        // Only now may the kernel give the port to another connection.
        drop(client);
        drop(entry);
        door.reporter.closed(&about, kind, &traffic, CloseReason::from(end));
    }
}
