//! Who proves what to whom when everybody keeps to the protocol.

use ::attestation::{Evidence, ReportData, Role, Tee};
use attester::AttesterError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::wire::MAX_CERTIFIED_KEYS;

#[tokio::test]
async fn both_sides_prove_what_they_run_on_and_then_talk() {
    let (agent, coordinator) = (Machine::running(1), Machine::running(2));
    let client = tls(coordinator.demanded());
    let server = tls(agent.demanded());
    let (near, far) = meet((&client, agent.offer()), (&server, coordinator.offer())).await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    let measurement = |stream: &AttestedStream<_>| {
        let result = stream.peer().result.clone().unwrap();
        assert_eq!(result.claims().tee, Tee::Simulated);
        result.claims().measurement
    };
    assert_eq!(measurement(&near), [2; 48]);
    assert_eq!(measurement(&far), [1; 48]);

    near.write_all(b"hello").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"hello");
}

#[tokio::test]
async fn each_side_knows_the_other_by_its_session_key() {
    let (client_key, server_key) = (key(), key());
    let client = tls_with(client_key.clone(), Demand::Nothing);
    let server = tls_with(server_key.clone(), Demand::Nothing);
    let (near, far) = meet((&client, Offer::default()), (&server, Offer::default())).await;
    assert_eq!(near.unwrap().peer().key, server_key.digest());
    assert_eq!(far.unwrap().peer().key, client_key.digest());
}

#[tokio::test]
async fn one_side_alone_may_be_attested_whichever_it_is() {
    let machine = Machine::running(1);
    let (strict, lax) = (tls(machine.demanded()), tls(Demand::Nothing));
    let (near, far) = meet((&strict, Offer::default()), (&lax, machine.offer())).await;
    assert!(near.unwrap().peer().result.is_some());
    assert!(far.unwrap().peer().result.is_none());
    let (near, far) = meet((&lax, machine.offer()), (&strict, Offer::default())).await;
    assert!(near.unwrap().peer().result.is_none());
    assert!(far.unwrap().peer().result.is_some());
}

#[tokio::test]
async fn manifest_and_keys_reach_the_other_side_and_its_appraiser() {
    let machine = Machine::running(1);
    let judge = machine.judge();
    let offer = Offer {
        manifest: Some(Digest([5; 32])),
        certified_keys: vec![Digest([6; 32]); MAX_CERTIFIED_KEYS],
        ..machine.offer()
    };
    let client = tls(Demand::Nothing);
    let server = tls(Demand::Evidence(Arc::clone(&judge) as Arc<dyn Appraiser>));
    let (near, far) = meet((&client, offer.clone()), (&server, Offer::default())).await;
    near.unwrap();
    let far = far.unwrap();
    assert_eq!(far.peer().manifest, offer.manifest);
    assert_eq!(far.peer().certified_keys, offer.certified_keys);
    let seen = judge.seen.lock().unwrap();
    let [presented] = &seen[..] else {
        panic!("{seen:?}");
    };
    assert_eq!(presented.role, Role::Client);
    assert_eq!(presented.manifest, offer.manifest);
    assert_eq!(presented.certified_keys, offer.certified_keys);
}

#[tokio::test]
async fn a_wrong_measurement_is_explained_to_the_operator_and_not_to_the_peer() {
    let (wanted, got) = (Machine::running(1), Machine::running(1));
    let impostor = Machine {
        platform_key: wanted.platform_key,
        measurement: [7; 48],
        ..got
    };
    let (strict, lax) = (tls(impostor.demanded()), tls(Demand::Nothing));
    for wanted_of_server in [true, false] {
        let (refuser, turned_away) = if wanted_of_server {
            let (near, far) = meet((&strict, Offer::default()), (&lax, wanted.offer())).await;
            (near, far)
        } else {
            let (near, far) = meet((&lax, wanted.offer()), (&strict, Offer::default())).await;
            (far, near)
        };
        let (codes, id) = refused(refuser);
        assert_eq!(codes, [Code::Measurement]);
        let shown = turned_away.as_ref().unwrap_err().to_string();
        assert_eq!(
            refused_by_peer(turned_away),
            ("attestation-refused".to_owned(), id)
        );
        assert!(!shown.contains("measurement"), "{shown}");
    }
}

#[tokio::test]
async fn when_both_refuse_each_learns_its_own_reason() {
    let (one, other) = (Machine::running(1), Machine::running(2));
    let strict = || tls(Machine::running(9).demanded());
    let (near, far) = meet((&strict(), one.offer()), (&strict(), other.offer())).await;
    let (near, near_id) = refused(near);
    let (far, far_id) = refused(far);
    assert_eq!(near, [Code::Platform, Code::Measurement]);
    assert_eq!(far, [Code::Platform, Code::Measurement]);
    assert_ne!(near_id, far_id);
}

#[tokio::test]
async fn who_has_no_tee_is_refused_and_told_that_it_needs_one() {
    let strict = tls(Machine::running(1).demanded());
    let client = tls(Demand::Nothing);
    let (near, far) = meet((&client, Offer::default()), (&strict, Offer::default())).await;
    let (codes, refused_id) = refused(far);
    assert_eq!(codes, [Code::Missing]);
    assert!(
        matches!(near, Err(AttestedTlsError::NoEvidenceSource { id }) if id == refused_id),
        "{near:?}"
    );
}

#[derive(Debug)]
struct BrokenTee;

impl EvidenceSource for BrokenTee {
    fn tee(&self) -> Tee {
        Tee::SevSnp
    }

    fn evidence(&self, _: &ReportData) -> Result<Evidence, AttesterError> {
        Err(AttesterError::NoVek)
    }
}

#[tokio::test]
async fn a_tee_that_fails_is_named_where_it_fails_and_refused_by_the_peer() {
    let strict = tls(Machine::running(1).demanded());
    let offer = Offer {
        evidence: Some(Arc::new(BrokenTee)),
        ..Offer::default()
    };
    let client = tls(Demand::Nothing);
    let (near, far) = meet((&client, offer), (&strict, Offer::default())).await;
    assert!(
        matches!(near, Err(AttestedTlsError::Evidence(AttesterError::NoVek))),
        "{near:?}"
    );
    assert_eq!(refused(far).0, [Code::Missing]);
}

#[tokio::test]
async fn no_evidence_is_made_where_none_is_wanted() {
    let offer = Offer {
        evidence: Some(Arc::new(BrokenTee)),
        ..Offer::default()
    };
    let (client, server) = (tls(Demand::Nothing), tls(Demand::Nothing));
    let (near, far) = meet((&client, offer), (&server, Offer::default())).await;
    near.unwrap();
    far.unwrap();
}

#[tokio::test]
async fn more_keys_than_a_challenge_holds_are_an_error_of_the_caller() {
    let offer = Offer {
        certified_keys: vec![Digest([6; 32]); MAX_CERTIFIED_KEYS + 1],
        ..Offer::default()
    };
    let (client, server) = (tls(Demand::Nothing), tls(Demand::Nothing));
    let (near, _) = meet((&client, offer), (&server, Offer::default())).await;
    assert!(
        matches!(near, Err(AttestedTlsError::TooManyKeys { got }) if got == MAX_CERTIFIED_KEYS + 1),
        "{near:?}"
    );
}
