use std::{future::pending, num::NonZeroUsize, sync::Arc};

use socket2::SockRef;
use tokio::net::TcpListener;
use userspace_tls::{RelayEnd, Traffic, relay};

use super::*;
use crate::{
    certificates::{
        self, Credential,
        testing::{TestMesh, id, issued},
    },
    metrics::Metrics,
    policy::{
        Destinations, EgressMode, EgressPolicy, EgressRule, IngressMode, IngressPolicy, PortRange,
        UdpMode, WorkloadMatch,
    },
    registry::{
        Registry,
        testing::{Stage, open},
    },
};

#[tokio::test]
async fn a_peer_whom_the_mesh_lists_and_allows_is_admitted_and_written_down() {
    let mut bed = Bed::new().await;
    bed.publish(&["web", "db"], &["db"]);
    assert!(bed.admit().await.is_ok());
    let found = bed.entry.established().unwrap();
    assert_eq!(found.identity, id("web"));
    assert_eq!(found.peer, Some(id("db")));
}

#[tokio::test]
async fn a_peer_who_is_no_member_or_not_allowed_is_refused_and_told_by_an_alert() {
    for (members, allowed, detail) in [
        (
            &["web"][..],
            "any",
            "spiffe://mesh.local/ns/default/sa/db is no identity of the manifest in force",
        ),
        (
            &["web", "db", "log"],
            "log",
            "spiffe://mesh.local/ns/default/sa/db is not among the peers that the manifest in \
             force allows spiffe://mesh.local/ns/default/sa/web",
        ),
    ] {
        let mut bed = Bed::new().await;
        // What counts is the moment after the handshake.
        bed.publish(members, &[allowed]);
        let told = bed.told();
        let (refused, told) = tokio::join!(bed.admit(), told);
        let cause = refused.unwrap_err();
        assert_eq!(cause.reason, RefusalReason::PeerNotAllowed);
        assert_eq!(cause.detail, detail);
        let access_denied = Alert(49);
        assert_eq!(told, RelayEnd::PeerAlert(access_denied));
    }
}

#[tokio::test]
async fn a_workload_that_is_withdrawn_during_a_handshake_admits_nobody() {
    let mut bed = Bed::new().await;
    bed.publish(&["db"], &["any"]);
    let told = bed.told();
    let (refused, _) = tokio::join!(bed.admit(), told);
    assert_eq!(
        refused.unwrap_err().reason,
        RefusalReason::Credential(Unusable::Withdrawn)
    );
}

#[tokio::test]
async fn the_rule_is_asked_as_before() {
    let mut bed = Bed::new().await;
    bed.publish(&["web", "db"], &["any"]);
    bed.allowed = Allowed::Peers(["log".parse().unwrap()].into_iter().collect());
    let told = bed.told();
    let (refused, _) = tokio::join!(bed.admit(), told);
    assert_eq!(refused.unwrap_err().reason, RefusalReason::PeerNotAllowed);
    assert!(bed.entry.established().is_none());
}

#[tokio::test]
async fn rules_that_came_during_the_handshake_are_asked_too() {
    let mut bed = Bed::new().await;
    bed.publish(&["web", "db"], &["any"]);
    let nobody = IngressPolicy::new(IngressMode::Mtls, PeerSet::from_iter([]), Vec::new());
    bed.current.update(|_| {
        Some(Rules {
            ingress: nobody.into(),
            ..any()
        })
    });
    let told = bed.told();
    let (refused, _) = tokio::join!(bed.admit(), told);
    let cause = CloseCause::PeerNotAllowedAnyMore;
    assert_eq!(refused.unwrap_err().reason, RefusalReason::Closed(cause));
}

#[tokio::test]
async fn the_rule_for_the_workload_that_has_answered_decides_and_is_written_down() {
    for (default, workload, mode, expected) in [
        (
            EgressMode::Deny,
            "db",
            EgressMode::Mtls,
            Ok("egress[0] workload db"),
        ),
        (
            EgressMode::Mtls,
            "log",
            EgressMode::Deny,
            Ok("egress default"),
        ),
        (
            EgressMode::Mtls,
            "db",
            EgressMode::Deny,
            Err(
                "spiffe://mesh.local/ns/default/sa/db has answered, and egress[0] workload db says deny",
            ),
        ),
        (
            EgressMode::Deny,
            "log",
            EgressMode::Mtls,
            Err("spiffe://mesh.local/ns/default/sa/db has answered, and egress default says deny"),
        ),
    ] {
        let mut bed = Bed::by_workload(Enforcement::Enforced, default, workload, mode).await;
        bed.publish(&["web", "db"], &["any"]);
        let told = bed.told();
        let admitted = match expected {
            Ok(_) => bed.admit().await,
            Err(_) => tokio::join!(bed.admit(), told).0,
        };
        match (admitted, expected) {
            (Ok(_), Ok(rule)) => assert_eq!(bed.entry.rule().to_string(), rule),
            (Err(cause), Err(detail)) => {
                assert_eq!(cause.reason, RefusalReason::DeniedByRule);
                assert_eq!(cause.detail, detail);
                assert!(
                    cause
                        .rule
                        .is_some_and(|rule| detail.contains(&rule.to_string()))
                );
                assert!(bed.entry.established().is_none());
            }
            (admitted, _) => panic!("{default:?} {workload} {mode:?}: {admitted:?}"),
        }
    }
}

#[tokio::test]
async fn a_dry_run_lets_a_workload_through_that_a_rule_denies() {
    for (default, admits) in [(EgressMode::Mtls, true), (EgressMode::Deny, false)] {
        let mut bed = Bed::by_workload(Enforcement::DryRun, default, "db", EgressMode::Deny).await;
        bed.publish(&["web", "db"], &["any"]);
        let told = bed.told();
        let admitted = if admits {
            bed.admit().await
        } else {
            tokio::join!(bed.admit(), told).0
        };
        assert_eq!(admitted.is_ok(), admits, "{default:?}");
        // Told by the rule that it is under.
        assert_eq!(bed.entry.rule(), &RuleRef::EgressDefault);
    }
}

#[tokio::test]
async fn a_connection_that_is_no_longer_wanted_is_reset_before_it_is_established() {
    let (near, mut far) = tcp_pair().await;
    let stop = StopSignal::default();
    let establishing = unless_closed(&stop, async {
        let _held = near;
        pending::<Result<(), Cause>>().await
    });
    let cause = CloseCause::IdentityWithdrawn;
    let (refused, _) = tokio::join!(establishing, async { stop.stop(cause) });
    assert_eq!(refused.unwrap_err().reason, RefusalReason::Closed(cause));
    let error = far.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_connection_that_was_closed_already_is_not_even_begun() {
    let stop = StopSignal::default();
    stop.stop(CloseCause::PeerNotAllowedAnyMore);
    let refused = unless_closed(&stop, async { Ok(()) }).await;
    assert_eq!(
        refused.unwrap_err().reason.as_str(),
        "peer-not-allowed-any-more"
    );
}

/// `web` has made a handshake with the client `db`, whom it has yet to admit.
struct Bed {
    web: Arc<MeshTls>,
    shaken: Option<Handshaken>,
    wire: WireSocket,
    client: Option<(TcpStream, Session)>,
    sender: watch::Sender<Credential>,
    credential: watch::Receiver<Credential>,
    decided: Arc<Rules>,
    current: CurrentRules,
    entry: Registration,
    allowed: Allowed,
}

impl Bed {
    async fn new() -> Self {
        Self::under(Direction::Ingress, any(), Allowed::Peers(PeerSet::any())).await
    }

    /// As if the workload had dialled `db`, under one rule by workload.
    async fn by_workload(
        enforcement: Enforcement,
        default: EgressMode,
        workload: &str,
        mode: EgressMode,
    ) -> Self {
        let workload: WorkloadMatch = workload.parse().unwrap();
        let rule = EgressRule {
            to: Destinations::Anywhere {},
            ports: PortRange::ALL,
            peers: workload.peers(),
            workload: Some(workload),
            mode,
        };
        let rules = Rules {
            egress: EgressPolicy::new(default, PeerSet::any(), vec![rule]).into(),
            enforcement,
            ..any()
        };
        Self::under(Direction::Egress, rules, Allowed::ByWorkload).await
    }

    async fn under(direction: Direction, rules: Rules, allowed: Allowed) -> Self {
        let mesh = TestMesh::new();
        let (web, db) = (mesh.issue("web"), mesh.issue("db"));
        let (mut near, mut wire) = tcp_pair().await;
        let (connected, shaken) = tokio::join!(
            connect(&db, Offer::Sealwire1, &mut near),
            accept(&web, ClientAuth::Required, &mut wire),
        );
        let (sender, credential) = certificates::channel();
        let registry = Arc::new(Registry::new(NonZeroUsize::MIN));
        let metrics = Metrics::new("0.1.0");
        let entry = open(
            &registry,
            &metrics,
            "web",
            direction,
            Mode::Mtls,
            Stage::Handshaking,
        );
        let rules = Arc::new(rules);
        Self {
            decided: Arc::clone(&rules),
            current: CurrentRules::new(rules),
            web,
            shaken: Some(shaken.unwrap()),
            wire: wire.into(),
            client: Some((near, connected.unwrap().session)),
            sender,
            credential,
            entry,
            allowed,
        }
    }

    fn publish(&self, members: &[&str], allowed: &[&str]) {
        let issued = issued(&self.web, members, allowed);
        self.sender.send_replace(Credential::Loaded(issued));
    }

    async fn admit(&mut self) -> Result<Session, Cause> {
        let check = PeerCheck {
            credential: &self.credential,
            current: &self.current,
            decided: &self.decided,
            allowed: &self.allowed,
            entry: &self.entry,
        };
        let shaken = self.shaken.take().unwrap();
        check.admit(shaken, &self.web, &mut self.wire).await
    }

    /// How the connection ends for the client.
    fn told(&mut self) -> impl Future<Output = RelayEnd> + use<> {
        let (wire, session) = self.client.take().unwrap();
        async move {
            let (_program, app) = tcp_pair().await;
            let never = StopSignal::<()>::default();
            relay(app, wire.into(), session, &Traffic::default(), &never, &()).await
        }
    }
}

/// Connected sockets that reset when they are dropped.
async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, (far, _)) = (near.unwrap(), far.unwrap());
    for stream in [&near, &far] {
        SockRef::from(stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    (near, far)
}

/// Rules that let everybody of the mesh in and out.
fn any() -> Rules {
    Rules {
        ingress: IngressPolicy::new(IngressMode::Mtls, PeerSet::any(), Vec::new()).into(),
        egress: EgressPolicy::new(EgressMode::Mtls, PeerSet::any(), Vec::new()).into(),
        names: Arc::default(),
        overhearing: None,
        listeners: [].into(),
        udp: UdpMode::Allow,
        enforcement: Enforcement::Enforced,
    }
}
