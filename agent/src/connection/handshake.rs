use std::{net::SocketAddr, time::Duration};

use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{Instant as TokioInstant, timeout_at},
};
use userspace_tls::{Alpn, ClientAuth, Handshaken, MeshTls, Session, accept, connect};

use super::{
    Door,
    authorize::{Authorized, Protection},
    dial::{self, ClientName},
    intercept::{Ends, Intercepted},
    refusal::{Cause, Refusal, RefusalReason},
};
use crate::{
    policy::{Direction, Mode, PeerSet, RuleRef},
    registry::{self, Registration},
};

/// How long a TLS handshake may take, the wait for a slot included.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a destination that refused is refused at once in `connect()`.
const REFUSED_LIFETIME: Duration = Duration::from_secs(1);

/// Both sockets are connected and the peer has proved who it is, where the rule asks for it.
#[derive(Debug)]
pub(super) struct Established {
    /// The program's side.
    pub(super) app: TcpStream,
    /// The network's side.
    pub(super) wire: TcpStream,
    pub(super) session: Option<Session>,
    pub(super) client: Option<ClientName>,
    pub(super) rule: RuleRef,
    pub(super) entry: Registration,
}

impl Authorized<'_> {
    /// Connects the second socket and lets the peer prove itself.
    pub(super) async fn establish(self, door: &Door) -> Result<Established, Refusal> {
        let Ends { from, to, .. } = self.intercepted.ends;
        let established = match door.direction {
            Direction::Egress => self.egress(door).await,
            Direction::Ingress => self.ingress(door).await,
        };
        established.map_err(|cause| {
            if door.direction == Direction::Egress && tells_of_destination(cause.reason) {
                let workload = door.workload.id;
                door.worker
                    .maps
                    .borrow_mut()
                    .refuse(workload, to, REFUSED_LIFETIME);
            }
            cause.between(Some(from), Some(to))
        })
    }

    /// The program is connected already: dial the destination, then shake hands with it.
    async fn egress(self, door: &Door) -> Result<Established, Cause> {
        let Self {
            intercepted,
            rule,
            protection,
            entry,
        } = self;
        let Intercepted {
            stream: app,
            ends,
            since,
        } = intercepted;
        let source = ends.from_is_own.then_some(ends.from);
        let mut wire = dial::wire(door, ends.to, source).await?;
        let session = match protection {
            Protection::Plaintext => None,
            Protection::Tls { tls, peers, .. } => {
                let deadline = TokioInstant::now() + HANDSHAKE_DEADLINE;
                let shaken = timeout_at(deadline, connect(&tls, &mut wire))
                    .await
                    .map_err(|_| Cause::timeout(HANDSHAKE_DEADLINE))?
                    .inspect_err(|_| let_alert_out(&wire))?;
                door.reporter.handshake(since.elapsed());
                Some(admit(shaken, &tls, peers, rule, &entry)?)
            }
        };
        Ok(Established {
            app,
            wire,
            session,
            client: None,
            rule,
            entry,
        })
    }

    /// The peer proves itself before the program hears of it.
    async fn ingress(self, door: &Door) -> Result<Established, Cause> {
        let Self {
            intercepted,
            rule,
            protection,
            entry,
        } = self;
        let Intercepted {
            stream: mut wire,
            ends,
            since,
        } = intercepted;
        let Protection::Tls { mode, tls, peers } = protection else {
            return Err(Cause::new(RefusalReason::PlaintextPort, "nothing to prove"));
        };
        let shaken = shake(door, &tls, mode, ends.from, &mut wire).await?;
        door.reporter.handshake(since.elapsed());
        let session = Some(admit(shaken, &tls, peers, rule, &entry)?);
        let (app, client) = dial::program(door, ends.to, ends.from).await?;
        Ok(Established {
            app,
            wire,
            session,
            client: Some(client),
            rule,
            entry,
        })
    }
}

/// The server's side of a handshake, within the source's share and the deadline.
async fn shake(
    door: &Door,
    tls: &MeshTls,
    mode: Mode,
    from: SocketAddr,
    wire: &mut TcpStream,
) -> Result<Handshaken, Cause> {
    let client_auth = if mode == Mode::Tls {
        ClientAuth::Optional
    } else {
        ClientAuth::Required
    };
    let deadline = TokioInstant::now() + HANDSHAKE_DEADLINE;
    let within_deadline = timeout_at(deadline, async {
        let slot = door.worker.admission.slot(from.ip()).await.map_err(|_| {
            let detail = format!("{} has too many connections waiting", from.ip());
            Cause::new(RefusalReason::TooManyHandshakes, detail)
        })?;
        let shaken = accept(tls, client_auth, wire).await;
        drop(slot);
        Ok::<_, Cause>(shaken?)
    });
    let shaken = within_deadline
        .await
        .map_err(|_| Cause::timeout(HANDSHAKE_DEADLINE))
        .flatten();
    if shaken.is_err() {
        let_alert_out(wire);
    }
    shaken
}

/// Checks the peer against those the rule allows, and writes down who met whom.
fn admit(
    shaken: Handshaken,
    tls: &MeshTls,
    peers: &PeerSet,
    rule: RuleRef,
    entry: &Registration,
) -> Result<Session, Cause> {
    let Handshaken {
        peer,
        application_protocol,
        cipher,
        key_exchange,
        session,
    } = shaken;
    let allowed = match &peer {
        Some(peer) => peers.allows(peer),
        // A `tls` port authenticates the server alone, and its rule can't list peers.
        None => entry.mode() == Mode::Tls,
    };
    if !allowed {
        let who = peer.map_or_else(
            || "a peer without an identity".into(),
            |peer| peer.to_string(),
        );
        let detail = format!("{who} is not among the peers of {rule}");
        return Err(Cause::new(RefusalReason::PeerNotAllowed, detail));
    }
    entry.set_established(registry::Established {
        identity: tls.identity().clone(),
        peer,
        key_exchange,
        cipher,
        alpn: application_protocol.map(|protocol| match protocol {
            Alpn::Sealwire1 => "sealwire/1",
            Alpn::Other => "other",
        }),
    });
    Ok(session)
}

/// The socket carries a fatal alert and nothing of any program's: a reset would overtake it.
fn let_alert_out(wire: &TcpStream) {
    let _ = SockRef::from(wire).set_linger(None);
}

/// Whether the next `connect()` to the same destination would fare the same.
fn tells_of_destination(reason: RefusalReason) -> bool {
    matches!(
        reason,
        RefusalReason::DialRefused | RefusalReason::DeniedByRule
    )
}
