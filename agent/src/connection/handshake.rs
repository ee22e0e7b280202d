use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use attestation::identity::SpiffeId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout},
};
use tracing::warn;
use userspace_tls::{
    Alert, ClientAuth, HandshakeError, Handshaken, MeshTls, Offer, Session, StopSignal, WireSocket,
    accept, connect,
};

use super::{
    CloseCause, Door,
    authorize::{Allowed, Authorized, Protection, closed, unknown},
    dial::{self, ClientName},
    intercept::{Ends, Intercepted},
    refusal::{Cause, Refusal, RefusalReason},
};
use crate::{
    certificates::{Credential, Unusable},
    config::Enforcement,
    policy::{Direction, EgressMode, Mode, Objection, PeerSet, RuleRef},
    registry::{self, Registration},
    rules::{CurrentRules, OfPeer, Rules},
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
    pub(super) wire: WireSocket,
    pub(super) session: Option<Session>,
    pub(super) client: Option<ClientName>,
    pub(super) entry: Registration,
}

impl Authorized {
    /// Connects the second socket and lets the peer prove itself.
    pub(super) async fn establish(self, door: &Door) -> Result<Established, Refusal> {
        let Ends { from, to, .. } = self.intercepted.ends;
        let connection = self.entry.connection();
        let established = unless_closed(connection.stop(), async {
            match door.direction {
                Direction::Egress => self.egress(door).await,
                Direction::Ingress => self.ingress(door).await,
            }
        });
        established.await.map_err(|cause| {
            if door.direction == Direction::Egress && tells_of_destination(cause.reason) {
                let workload = door.workload.id;
                door.worker
                    .hooks
                    .borrow()
                    .refuse(workload, to, REFUSED_LIFETIME);
            }
            let rule = cause.rule.clone();
            let rule = rule.unwrap_or_else(|| connection.rule().clone());
            cause.under(rule).between(Some(from), Some(to))
        })
    }

    /// The program is connected already: dial the destination, then shake hands with it.
    async fn egress(self, door: &Door) -> Result<Established, Cause> {
        let Self {
            intercepted,
            rules,
            protection,
            entry,
        } = self;
        let Intercepted {
            stream: app,
            ends,
            dialled,
            ..
        } = intercepted;
        let source = ends.from_is_own.then_some(ends.from);
        let (wire, session) = match protection {
            Protection::Plaintext => (dial::wire(door, ends.to, source).await?.into(), None),
            Protection::Tls { tls, allowed, .. } => {
                let (mut wire, shaken) = call(door, &tls, ends.to, source, dialled).await?;
                let check = PeerCheck {
                    credential: &door.workload.credential,
                    current: &door.workload.rules,
                    decided: &rules,
                    allowed: &allowed,
                    entry: &entry,
                };
                let session = check.admit(shaken, &tls, &mut wire).await?;
                (wire, Some(session))
            }
        };
        Ok(Established {
            app,
            wire,
            session,
            client: None,
            entry,
        })
    }

    /// The peer proves itself before the program hears of it.
    async fn ingress(self, door: &Door) -> Result<Established, Cause> {
        let Self {
            intercepted,
            rules,
            protection,
            entry,
        } = self;
        let Intercepted { stream, ends, .. } = intercepted;
        let mut wire = WireSocket::from(stream);
        let Protection::Tls { mode, tls, allowed } = protection else {
            return Err(Cause::new(RefusalReason::PlaintextPort, "nothing to prove"));
        };
        door.worker.kernel_tls.attach(&mut wire);
        let mut turn = door.worker.order.turn(ends.from.ip(), ends.to);
        let shaken = answer(door, &tls, mode, ends.from, &mut wire).await?;
        let check = PeerCheck {
            credential: &door.workload.credential,
            current: &door.workload.rules,
            decided: &rules,
            allowed: &allowed,
            entry: &entry,
        };
        let session = Some(check.admit(shaken, &tls, &mut wire).await?);
        turn.come().await;
        let (app, client) = dial::program(door, ends.to, ends.from).await?;
        Ok(Established {
            app,
            wire,
            session,
            client: Some(client),
            entry,
        })
    }
}

/// Dials a destination, unless that is done, and makes the client's side of a handshake with it.
///
/// A server that knows its protocols and not ours refuses the offer; it is dialled once more, and
/// from then on at once, without one.
async fn call(
    door: &Door,
    tls: &MeshTls,
    to: SocketAddr,
    source: Option<SocketAddr>,
    mut dialled: Option<TcpStream>,
) -> Result<(WireSocket, Handshaken), Cause> {
    let mut offer = door.worker.strangers.offer(to);
    loop {
        let stream = match dialled.take() {
            Some(stream) => stream,
            None => dial::wire(door, to, source).await?,
        };
        let mut wire = WireSocket::from(stream);
        door.worker.kernel_tls.attach(&mut wire);
        let began = Instant::now();
        let shaken = timeout(HANDSHAKE_DEADLINE, connect(tls, offer, &mut wire))
            .await
            .map_err(|_| Cause::timeout(HANDSHAKE_DEADLINE))?;
        match shaken {
            Ok(shaken) => {
                door.reporter.handshake(began.elapsed());
                return Ok((wire, shaken));
            }
            Err(HandshakeError::PeerAlert(Alert::NO_APPLICATION_PROTOCOL))
                if offer == Offer::Sealwire1 =>
            {
                door.worker.strangers.add(to);
                offer = Offer::Nothing;
            }
            Err(error) => {
                let_alert_out(&mut wire).await;
                return Err(error.into());
            }
        }
    }
}

/// The server's side of a handshake, within the source's share and the deadline.
async fn answer(
    door: &Door,
    tls: &MeshTls,
    mode: Mode,
    from: SocketAddr,
    wire: &mut WireSocket,
) -> Result<Handshaken, Cause> {
    let client_auth = if mode == Mode::Tls {
        ClientAuth::Optional
    } else {
        ClientAuth::Required
    };
    let within_deadline = timeout(HANDSHAKE_DEADLINE, async {
        let slot = door.worker.admission.slot(from.ip()).await.map_err(|_| {
            let detail = format!("{} has too many connections waiting", from.ip());
            Cause::new(RefusalReason::TooManyHandshakes, detail)
        })?;
        let began = Instant::now();
        let shaken = accept(tls, client_auth, wire).await?;
        door.reporter.handshake(began.elapsed());
        drop(slot);
        Ok::<_, Cause>(shaken)
    });
    let shaken = within_deadline
        .await
        .map_err(|_| Cause::timeout(HANDSHAKE_DEADLINE))
        .flatten();
    if shaken.is_err() {
        let_alert_out(wire).await;
    }
    shaken
}

/// Lets go of a connection on its way to being established as soon as it is not wanted any more. What it has opened is reset then.
async fn unless_closed<T>(
    stop: &StopSignal<CloseCause>,
    establishing: impl Future<Output = Result<T, Cause>>,
) -> Result<T, Cause> {
    tokio::select! {
        biased;
        cause = stop.stopped() => Err(closed(cause)),
        established = establishing => established,
    }
}

/// What a peer that has proved its identity is judged by.
struct PeerCheck<'a> {
    /// What the mesh says, at any moment.
    credential: &'a watch::Receiver<Credential>,
    /// What the rules say, at any moment.
    current: &'a CurrentRules,
    /// The rules that were asked before.
    decided: &'a Arc<Rules>,
    /// Whom they allow.
    allowed: &'a Allowed,
    entry: &'a Registration,
}

impl PeerCheck<'_> {
    /// Checks the peer against those that rule and mesh allow, and writes down who met whom.
    async fn admit(
        &self,
        shaken: Handshaken,
        tls: &MeshTls,
        wire: &mut WireSocket,
    ) -> Result<Session, Cause> {
        let Handshaken {
            peer,
            application_protocol,
            cipher,
            key_exchange,
            session,
        } = shaken;
        let refused = self.rule_for(peer.as_ref()).and_then(|rule| {
            // Written down before mesh and rules are asked: who is withdrawn between the two is found
            // here by those who close what is open, and who is withdrawn earlier is refused.
            self.entry.set_established(registry::Established {
                identity: tls.identity().clone(),
                peer,
                key_exchange,
                cipher,
                alpn: application_protocol,
                session: session.id(),
                after_ms: self.entry.age_ms(),
                rule: rule.map(Box::new),
            });
            let objection = self.mesh_objects().or_else(|| self.newer_rules_object());
            objection.map_or(Ok(()), Err)
        });
        let Err(cause) = refused else {
            return Ok(session);
        };
        if let Some(alert) = session.deny() {
            let _ = timeout(LAST_WORDS, wire.write_all(&alert)).await;
            let_alert_out(wire).await;
        }
        Err(cause)
    }

    /// The rule that lets the peer through, where it is another than its destination had without it.
    fn rule_for(&self, peer: Option<&SpiffeId>) -> Result<Option<RuleRef>, Cause> {
        match (self.allowed, peer) {
            (Allowed::Peers(peers), peer) => self.is_listed(peer, peers, self.entry.rule()),
            (Allowed::ByWorkload, Some(peer)) => return self.by_workload(peer),
            (Allowed::ByWorkload, None) => Err(not_allowed(None, self.entry.rule())),
        }
        .map(|()| None)
    }

    fn is_listed(
        &self,
        peer: Option<&SpiffeId>,
        peers: &PeerSet,
        rule: &RuleRef,
    ) -> Result<(), Cause> {
        match peer {
            Some(peer) if peers.allows(peer) => Ok(()),
            // A `tls` port authenticates the server alone, and its rule can't list peers.
            None if self.entry.mode() == Mode::Tls => Ok(()),
            Some(peer) if self.decided.enforcement == Enforcement::DryRun => {
                self.let_through(peer, rule, "does not list this peer");
                Ok(())
            }
            peer => Err(not_allowed(peer, rule)),
        }
    }

    fn by_workload(&self, peer: &SpiffeId) -> Result<Option<RuleRef>, Cause> {
        let to = self.entry.to();
        let names = self.decided.names_of(to);
        let of_peer = self.decided.of_peer(to, names.known(), peer);
        let OfPeer {
            decision,
            passed_over,
        } = of_peer.map_err(unknown)?;
        let rule = decision.rule;
        if decision.mode == EgressMode::Deny {
            let detail = format!("{peer} has answered, and {rule} says deny");
            return Err(Cause::new(RefusalReason::DeniedByRule, detail).under(rule));
        }
        match passed_over {
            Some(denial) => self.let_through(peer, &denial, "denies this peer"),
            None => self.is_listed(Some(peer), decision.peers, &rule)?,
        }
        Ok((rule != *self.entry.rule()).then_some(rule))
    }

    fn let_through(&self, peer: &SpiffeId, rule: &RuleRef, why: &'static str) {
        self.entry.let_through();
        warn!(
            target: "dry-run",
            workload = self.entry.workload(),
            direction = self.entry.direction().as_str(),
            from = %self.entry.from(),
            to = %self.entry.to(),
            peer = peer.as_str(),
            %rule,
            "the rule {why}, which is let through as dry_run says"
        );
    }

    fn newer_rules_object(&self) -> Option<Cause> {
        let objection = self.current.objection_since(self.decided, self.entry);
        objection.map(closed)
    }

    fn mesh_objects(&self) -> Option<Cause> {
        let registry::Established { identity, peer, .. } = self.entry.established()?;
        let objection = self
            .credential
            .borrow()
            .objection(identity, peer.as_ref())?;
        let who = peer.as_ref().map_or("the peer", SpiffeId::as_str);
        let (reason, detail) = match objection {
            Objection::OwnIdentity => (
                RefusalReason::Credential(Unusable::Withdrawn),
                format!("the manifest in force has this workload's identity {identity} no more"),
            ),
            Objection::PeerIdentity => (
                RefusalReason::PeerNotAllowed,
                format!("{who} is no identity of the manifest in force"),
            ),
            Objection::PeerNotAllowed => (
                RefusalReason::PeerNotAllowed,
                format!(
                    "{who} is not among the peers that the manifest in force allows {identity}"
                ),
            ),
        };
        Some(Cause::new(reason, detail))
    }
}

fn not_allowed(peer: Option<&SpiffeId>, rule: &RuleRef) -> Cause {
    let who = peer.map_or("a peer without an identity", SpiffeId::as_str);
    let detail = format!("{who} is not among the peers of {rule}");
    Cause::new(RefusalReason::PeerNotAllowed, detail).under(rule.clone())
}

/// Lets the alert that ends a failed handshake reach the peer: a reset would overtake it, and so
/// would one that the kernel sends for what the peer has sent and nobody read.
async fn let_alert_out(wire: &mut WireSocket) {
    let _ = wire.set_linger(None);
    let _ = timeout(LAST_WORDS, async {
        wire.shutdown().await?;
        let mut unread = [0; 1024];
        for _ in 0..MOST_UNREAD / unread.len() {
            if wire.read(&mut unread).await? == 0 {
                break;
            }
        }
        Ok::<_, io::Error>(())
    })
    .await;
}

/// How long a refused peer may take to hang up.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How much of what it sends meanwhile is read.
const MOST_UNREAD: usize = 64 * 1024;

/// Whether the next `connect()` to the same destination would fare the same.
fn tells_of_destination(reason: RefusalReason) -> bool {
    matches!(
        reason,
        RefusalReason::DialRefused | RefusalReason::DeniedByRule
    )
}

#[cfg(test)]
mod tests;
