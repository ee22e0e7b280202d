use userspace_tls::{relay, relay_plaintext};

use super::{
    Door,
    close::CloseReason,
    handshake::Established,
    offload::{Datapath, Follower},
};
use crate::registry::Registration;

impl Datapath {
    /// Moves the connection's bytes until it ends, and tells how it ended.
    pub(super) async fn run(self, door: &Door) {
        let Self { established, kind } = self;
        let Established {
            app,
            wire,
            session,
            client,
            entry,
        } = established;
        let follower = Follower::new(&entry, kind, door);
        let mut end = End {
            door,
            entry: &entry,
            close: CloseReason::AgentStopped,
        };
        let ended = match session {
            Some(session) => {
                let (traffic, stop) = (entry.traffic(), entry.stop());
                relay(app, wire, session, traffic, stop, &follower).await
            }
            None => relay_plaintext(app, wire, entry.traffic(), entry.stop()).await,
        };
        drop(client);
        end.close = CloseReason::of(ended, entry.stop().cause());
    }
}

/// Tells how a connection ended when it is dropped: also when the agent ends it.
struct End<'a> {
    door: &'a Door,
    entry: &'a Registration,
    close: CloseReason,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.door.reporter.closed(self.entry, self.close);
    }
}
