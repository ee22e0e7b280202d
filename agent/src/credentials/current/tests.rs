use std::{num::NonZeroUsize, time::SystemTime};

use super::*;
use crate::{
    certificates::{
        self, Unusable,
        testing::{TestMesh, issued},
    },
    metrics::Metrics,
    policy::Direction,
    registry::{
        Registration,
        testing::{self, Stage},
    },
};

#[test]
fn the_connections_of_a_withdrawn_peer_end_and_no_others() {
    let bed = Bed::new();
    let web = TestMesh::new().issue("web");
    bed.current
        .take(Ok(issued(&web, &["web", "db", "log"], &["any"])));
    let db = bed.open("web", Mode::Mtls, Stage::Met("db"));
    let log = bed.open("web", Mode::Mtls, Stage::Met("log"));
    let nobody = bed.open("web", Mode::Tls, Stage::MetNobody);
    let handshaking = bed.open("web", Mode::Mtls, Stage::Handshaking);
    let plaintext = bed.open("web", Mode::Plaintext, Stage::Handshaking);
    let others = bed.open("other", Mode::Mtls, Stage::Met("db"));

    bed.current
        .take(Ok(issued(&web, &["web", "log"], &["any"])));
    assert_eq!(db.stop().cause(), Some(CloseCause::IdentityWithdrawn));
    for stays in [&log, &nobody, &handshaking, &plaintext, &others] {
        assert_eq!(stays.stop().cause(), None, "{stays:?}");
    }
}

#[test]
fn the_connections_with_a_peer_that_is_not_allowed_any_more_end() {
    let bed = Bed::new();
    let web = TestMesh::new().issue("web");
    let members = ["web", "db", "log"];
    bed.current.take(Ok(issued(&web, &members, &["db", "log"])));
    let db = bed.open("web", Mode::Mtls, Stage::Met("db"));
    let log = bed.open("web", Mode::Mtls, Stage::Met("log"));

    bed.current.take(Ok(issued(&web, &members, &["log"])));
    let cause = CloseCause::PeerNotAllowedAnyMore;
    assert_eq!(db.stop().cause(), Some(cause));
    assert_eq!(log.stop().cause(), None);
}

#[test]
fn a_workload_that_is_withdrawn_loses_every_connection_but_those_in_clear_and_makes_no_new_one() {
    let bed = Bed::new();
    let web = TestMesh::new().issue("web");
    bed.current.take(Ok(issued(&web, &["web", "db"], &["any"])));
    let db = bed.open("web", Mode::Mtls, Stage::Met("db"));
    let nobody = bed.open("web", Mode::Tls, Stage::MetNobody);
    let handshaking = bed.open("web", Mode::Mtls, Stage::Handshaking);
    let plaintext = bed.open("web", Mode::Plaintext, Stage::Handshaking);
    let now = SystemTime::now();
    assert!(bed.current.get().usable(now).is_ok());

    bed.current.take(Ok(issued(&web, &["db"], &["any"])));
    for ended in [&db, &nobody, &handshaking] {
        let cause = Some(CloseCause::IdentityWithdrawn);
        assert_eq!(ended.stop().cause(), cause, "{ended:?}");
    }
    assert_eq!(plaintext.stop().cause(), None);
    let credential = bed.current.get();
    assert!(matches!(credential.usable(now), Err(Unusable::Withdrawn)));
    assert_eq!(credential.until_ns(now), 0);
}

#[test]
fn a_new_name_ends_the_connections_under_the_old_one() {
    let bed = Bed::new();
    let mesh = TestMesh::new();
    let members = ["web", "web2", "db"];
    bed.current
        .take(Ok(issued(&mesh.issue("web"), &members, &["any"])));
    let db = bed.open("web", Mode::Mtls, Stage::Met("db"));
    // Both names while one gives way to the other.
    let web2 = mesh.issue("web2");
    bed.current.take(Ok(issued(&web2, &members, &["any"])));
    assert_eq!(db.stop().cause(), None);
    bed.current
        .take(Ok(issued(&web2, &["web2", "db"], &["any"])));
    assert_eq!(db.stop().cause(), Some(CloseCause::IdentityWithdrawn));
}

#[test]
fn certificates_from_files_end_nothing() {
    let bed = Bed::new();
    let tls = TestMesh::new().issue("web");
    let membership = crate::policy::Membership::unrestricted();
    let stranger = bed.open("web", Mode::Mtls, Stage::Met("stranger"));
    bed.current.take(Ok(Issued { tls, membership }));
    assert_eq!(stranger.stop().cause(), None);
}

#[test]
fn a_failure_leaves_in_force_what_was_issued_and_otherwise_says_why_there_is_nothing() {
    let bed = Bed::new();
    let failure = || CertificateError::Coordinator {
        source: "no route".into(),
    };
    bed.current.take(Err(failure()));
    let Credential::Missing(why) = bed.current.get() else {
        panic!("a credential from nowhere")
    };
    assert_eq!(
        why.to_string(),
        "the Coordinator gave no certificate: no route"
    );

    let web = TestMesh::new().issue("web");
    bed.current.take(Ok(issued(&web, &["web"], &["any"])));
    bed.current.take(Err(failure()));
    assert!(bed.current.get().usable(SystemTime::now()).is_ok());
    bed.expect_reloads("refused", 2);
}

#[test]
fn a_certificate_that_is_withdrawn_is_not_used_and_ends_no_connection() {
    let bed = Bed::new();
    let web = TestMesh::new().issue("web");
    bed.current.take(Ok(issued(&web, &["web", "db"], &["any"])));
    let db = bed.open("web", Mode::Mtls, Stage::Met("db"));
    bed.current.take(Err(CertificateError::Withdrawn {
        source: "its CA is gone".into(),
    }));
    let Credential::Missing(why) = bed.current.get() else {
        panic!("it is still in use")
    };
    assert_eq!(why.to_string(), "its CA is gone");
    assert_eq!(db.stop().cause(), None);
}

#[test]
fn a_membership_alone_is_no_new_certificate() {
    let bed = Bed::new();
    let mesh = TestMesh::new();
    let web = mesh.issue("web");
    bed.current.take(Ok(issued(&web, &["web"], &["any"])));
    bed.current.take(Ok(issued(&web, &["web", "db"], &["any"])));
    bed.expect_reloads("loaded", 1);
    let renewed = mesh.issue("web");
    bed.current.take(Ok(issued(&renewed, &["web"], &["any"])));
    bed.expect_reloads("loaded", 2);
}

/// The credential of the workload `web`, and connections.
struct Bed {
    metrics: Metrics,
    registry: Arc<Registry>,
    current: CurrentCredential,
}

impl Bed {
    fn new() -> Self {
        let metrics = Metrics::new("0.1.0");
        let registry = Arc::new(Registry::new(NonZeroUsize::MIN));
        let name: WorkloadName = "web".parse().unwrap();
        let (sender, _) = certificates::channel();
        let current = CurrentCredential::new(
            name.clone(),
            sender,
            Arc::clone(&registry),
            metrics.workload(&name),
        );
        Self {
            metrics,
            registry,
            current,
        }
    }

    fn open(&self, workload: &str, mode: Mode, stage: Stage) -> Registration {
        let (registry, metrics) = (&self.registry, &self.metrics);
        testing::open(registry, metrics, workload, Direction::Ingress, mode, stage)
    }

    fn expect_reloads(&self, result: &str, count: u64) {
        let line = format!(
            r#"sealwire_certificate_reloads_total{{workload="web",result="{result}"}} {count}"#
        );
        let text = self.metrics.encode();
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}
