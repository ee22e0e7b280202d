//! Who may set a manifest, and what is refused without any effect.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use api::v1;
use api::v1::user_api_client::UserApiClient;
use attestation::Digest;
use attested_tls::{AttestedTls, Demand, Offer, SessionKey};
use history::{Head, OwnerKey};
use serde_json::json;
use support::agent::Agent;
use support::bed::Bed;
use support::manifest::{ManifestBuilder, policy_document};
use support::owners::{share_owners, workload_owners};
use support::running::Running;
use support::user::{expected, request};
use support::{code, until};
use tonic::{Code, Status};

const NOTHING: Digest = Digest([0; 32]);

#[tokio::test]
async fn without_owner_keys_whoever_comes_first_sets_and_that_is_shown() {
    let bed = Bed::new();
    let running = bed.start().await;
    let manifest = bed.manifest();
    // Somebody signs it whom nobody asked: history does not say that he agreed.
    let stranger = workload_owners(5)[4];
    let signed = request(manifest.bytes(), NOTHING, &[stranger]);
    running.user().set(signed).await.unwrap();
    assert!(running.status().await.trust_on_first_use);
    let (chain, _) = running.user().history().await;
    assert!(
        chain
            .iter()
            .all(|it| it.transition.authorisations.is_empty())
    );
    let lines = bed.audit();
    let line = lines.iter().find(|it| it["event"] == "transition").unwrap();
    assert_eq!(line["authorised_by"], json!([]));
}

#[tokio::test]
async fn with_owner_keys_the_first_manifest_takes_as_many_of_them_as_configured() {
    let owners = workload_owners(4);
    let mut bed = Bed::new();
    bed.settings.first_set_owners = owners[..3].iter().map(|it| it.digest()).collect();
    bed.settings.first_set_quorum = 2;
    let running = bed.start().await;
    let manifest = bed.manifest();
    let set = async |owners: &[&OwnerKey]| {
        let request = request(manifest.bytes(), NOTHING, owners);
        running.user().set(request).await
    };
    for (why, owners) in [
        ("nobody", &[][..]),
        ("too few", &[owners[0]]),
        ("one of them twice", &[owners[0], owners[0]]),
        ("a stranger", &[owners[0], owners[3]]),
    ] {
        let refused = set(owners).await.err().unwrap();
        assert_eq!(code(&refused), "not-authorised", "{why}");
        assert!(!refused.message().contains("owner"), "{why}: {refused}");
    }
    let status = running.status().await;
    assert_eq!(status.phase(), v1::Phase::Uninitialised);
    assert!(!status.trust_on_first_use);
    set(&[owners[2], owners[0]]).await.unwrap();
    let (chain, _) = running.user().history().await;
    let recorded = &chain.iter().next().unwrap().transition.authorisations;
    assert_eq!(recorded.len(), 2);
}

#[tokio::test]
async fn an_update_takes_as_many_owners_as_the_manifest_in_force_says() {
    let owners = workload_owners(4);
    let bed = Bed::new();
    let manifest = bed.manifest().owners(3, 2);
    let running = bed.ready(&manifest).await;
    let next = manifest.workload("web");
    for (why, owners) in [
        ("nobody", &[][..]),
        ("too few", &[owners[1]]),
        ("one of them twice", &[owners[1], owners[1]]),
        ("a stranger", &[owners[0], owners[1], owners[3]]),
    ] {
        let refused = running.user().update_by(&next, owners).await;
        assert_eq!(code(&refused.err().unwrap()), "not-authorised", "{why}");
    }
    assert_eq!(running.user().head().await.seq, 1);
    let agreed = [owners[2], owners[1]];
    running.user().update_by(&next, &agreed).await.unwrap();
    let lines = bed.audit();
    let line = lines.iter().rfind(|it| it["kind"] == "manifest").unwrap();
    let wanted: Vec<_> = agreed.iter().map(|it| it.digest().to_string()).collect();
    assert_eq!(line["authorised_by"], json!(wanted));
    assert_eq!(line["manifest"], next.hash().to_string());
}

#[tokio::test]
async fn a_signature_is_good_for_one_manifest_in_one_place() {
    let bed = Bed::new();
    let first = bed.manifest();
    let running = bed.ready(&first).await;
    let user = running.user();
    let head = user.head().await;
    let owners = workload_owners(1);
    let (second, third) = (first.clone().workload("b"), first.clone().workload("c"));
    let mut other = request(second.bytes(), head.hash, &owners);
    other.manifest = third.bytes();
    let refused = user.set(other).await.err().unwrap();
    assert_eq!(code(&refused), "not-authorised", "for another manifest");
    let nowhere = request(second.bytes(), Digest([9; 32]), &owners);
    let refused = user.set(nowhere).await.err().unwrap();
    assert_eq!(code(&refused), "not-authorised", "for another history");

    let signed = request(second.bytes(), head.hash, &owners);
    user.set(signed.clone()).await.unwrap();
    user.update(&first).await.unwrap();
    let before = user.head().await;
    let replayed = user.set(signed).await.err().unwrap();
    assert_eq!(code(&replayed), "conflict", "the same again, later");
    let told = replayed.message();
    assert!(told.contains("what follows transition 1"), "{told}");
    assert_eq!(user.head().await.seq, before.seq);
}

#[tokio::test]
async fn owners_are_replaced_by_the_manifest_that_they_agree_to() {
    let owners = workload_owners(2);
    let bed = Bed::new();
    let manifest = bed.manifest();
    let running = bed.ready(&manifest).await;
    let others = manifest.with(
        "WorkloadOwnerKeyDigests",
        json!([owners[1].digest().to_string()]),
    );
    running.update(&others).await.unwrap();
    let next = others.clone().workload("web");
    let refused = running.user().update_by(&next, &owners[..1]).await;
    assert_eq!(code(&refused.err().unwrap()), "not-authorised");
    running.user().update_by(&next, &owners[1..]).await.unwrap();
}

#[tokio::test]
async fn without_owners_there_is_no_update_ever() {
    let bed = Bed::new();
    let manifest = bed.manifest().with("WorkloadOwnerKeyDigests", json!([]));
    let running = bed.ready(&manifest).await;
    let next = manifest.workload("web");
    for owners in [vec![], workload_owners(1)] {
        let refused = running.user().update_by(&next, &owners).await;
        assert_eq!(code(&refused.err().unwrap()), "not-authorised");
    }
    running.stop().await;
    let running = bed.start().await;
    running.recover().await;
    let refused = running.update(&next).await.err().unwrap();
    assert_eq!(code(&refused), "not-authorised");
}

#[tokio::test]
async fn an_update_for_another_transition_than_the_latest_is_a_conflict() {
    let bed = Bed::new();
    let manifest = bed.manifest();
    let running = bed.ready(&manifest).await;
    let user = running.user();
    let head = user.head().await;
    let next = manifest.workload("web");
    let signed = request(next.bytes(), head.hash, &workload_owners(1));
    let on = |previous: Digest| v1::SetManifestRequest {
        previous_transition: Some(previous.0.to_vec()),
        ..signed.clone()
    };
    let refused = user.set(on(NOTHING)).await.err().unwrap();
    assert_eq!(code(&refused), "conflict");
    let malformed = v1::SetManifestRequest {
        previous_transition: Some(vec![1, 2, 3]),
        ..signed.clone()
    };
    let refused = user.set(malformed).await.err().unwrap();
    assert_eq!(code(&refused), "malformed");
    assert_eq!(user.head().await.seq, 1);
    user.set(on(head.hash)).await.unwrap();
}

#[tokio::test]
async fn of_two_updates_at_once_one_wins_and_the_other_is_a_conflict() {
    let bed = Bed::new();
    let manifest = bed.manifest();
    let first = bed.ready(&manifest).await;
    let second = bed.start_beside(&[&first]).await;
    until("recovery from the peer", async || {
        (second.status().await.phase() == v1::Phase::Ready).then_some(())
    })
    .await;
    let mut seq = 1;
    for round in 0..4 {
        let head = first.user().head().await;
        assert_eq!(head.seq, seq, "round {round}");
        let contestant = |name: &str, running: &Running| {
            let next = manifest
                .clone()
                .rotation("strict", 1)
                .workload(&format!("{name}-{round}"));
            let signed = request(next.bytes(), head.hash, &workload_owners(1));
            let user = running.user();
            tokio::spawn(async move { user.set(signed).await })
        };
        let contestants = [contestant("a", &first), contestant("b", &second)];
        let [a, b] = contestants.map(async |it| it.await.unwrap().err());
        let lost: Vec<Status> = [a.await, b.await].into_iter().flatten().collect();
        let [lost] = lost.as_slice() else {
            panic!("round {round}: {} have lost, not one", lost.len());
        };
        assert_eq!(code(lost), "conflict", "round {round}: {lost}");
        seq += 1;
        for running in [&first, &second] {
            until("the new head", async || {
                (running.user().head().await.seq == seq).then_some(())
            })
            .await;
        }
    }
    let (chain, _) = second.user().history().await;
    assert_eq!(chain.head().seq, seq);
}

#[tokio::test]
async fn owners_of_shares_are_replaced_by_quorum() {
    let bed = Bed::new();
    let manifest = bed.manifest();
    let running = bed.ready(&manifest).await;
    let old = running.status().await.seed_shares;
    let [_, _, _, fourth, fifth] = share_owners(5)[..] else {
        unreachable!()
    };
    let keys = json!([hex::encode(&fourth.public), hex::encode(&fifth.public)]);
    let next = manifest.with("SeedshareOwnerPubKeys", keys);
    let answer = running.update(&next).await.unwrap();
    let new = answer.seed_shares.expect("new owners have new shares");
    let root = running.status().await.root_ca;
    // An update that keeps the owners keeps their shares.
    let answer = running.update(&next.workload("web")).await.unwrap();
    assert_eq!(answer.seed_shares, None);
    running.stop().await;

    let running = bed.start().await;
    let user = running.user();
    for owner in share_owners(2) {
        let refused = user.give(&owner.share(&old), None).await.err().unwrap();
        assert_eq!(code(&refused), "share-refused");
        assert!(refused.message().contains("stale"), "{refused}");
    }
    for owner in [fourth, fifth] {
        user.give(&owner.share(&new), None).await.unwrap();
    }
    let status = running.status().await;
    assert_eq!(status.phase(), v1::Phase::Ready);
    assert_eq!(status.root_ca, root);
}

#[tokio::test]
async fn what_is_no_manifest_is_refused_without_effect() {
    let bed = Bed::new();
    let running = bed.start().await;
    let good = bed.manifest().bytes();
    let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
    let many = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(500_000));
    let mut no_utf8 = good.clone();
    no_utf8[20] = 0xff;
    let too_long = [good.as_slice(), &vec![b' '; 5 * 1024 * 1024]].concat();
    let bad: [(&str, Vec<u8>); 8] = [
        ("nothing", vec![]),
        ("no JSON", b"manifest".to_vec()),
        ("half of it", good[..good.len() / 2].to_vec()),
        ("a million brackets", deep.into_bytes()),
        ("half a million fields", many.into_bytes()),
        ("no UTF-8", no_utf8),
        ("too long", too_long),
        (
            "a number that is none",
            b"{\"Policies\": 1e999999999}".to_vec(),
        ),
    ];
    for (what, manifest) in bad {
        let refused = running.user().set(request(manifest, NOTHING, &[])).await;
        let refused = refused.err().unwrap();
        assert_eq!(code(&refused), "manifest-invalid", "{what}: {refused}");
    }
    let status = running.status().await;
    assert_eq!(status.phase(), v1::Phase::Uninitialised);
    running.set_first(&bed.manifest()).await.unwrap();
}

#[tokio::test]
async fn a_manifest_of_100_mib_is_refused_and_takes_no_memory() {
    let bed = Bed::new();
    let running = bed.ready(&bed.manifest()).await;
    let tls = AttestedTls::new(
        SessionKey::generate().unwrap(),
        Demand::Evidence(expected(&bed.platform)),
        support::PATIENCE,
    );
    let address = running.user_api.clone();
    let (channel, _) = attested_tls::channel(tls.unwrap().into(), address, Offer::default())
        .await
        .unwrap();
    let mut client = UserApiClient::new(channel).max_encoding_message_size(usize::MAX);
    let huge = request(vec![b' '; 100 * 1024 * 1024], NOTHING, &[]);
    let refused = client.set_manifest(huge).await.err().unwrap();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert_eq!(running.user().head().await.seq, 1);
}

#[tokio::test]
async fn a_thousand_errors_are_an_answer_that_can_be_read() {
    let bed = Bed::new();
    let running = bed.start().await;
    let mut manifest = bed.manifest();
    for number in 0..1000 {
        manifest = manifest.policy(&format!("p{number}"), json!({ "Rôle": "\"\n\u{1f600}" }));
    }
    let refused = running.set_first(&manifest).await.err().unwrap();
    assert_eq!(code(&refused), "manifest-invalid");
    assert!(refused.message().contains("more bytes"), "{refused}");
}

#[tokio::test]
async fn nothing_of_a_manifest_is_read_before_it_is_known_whose_it_is() {
    let bed = Bed::new();
    let running = bed.ready(&bed.manifest()).await;
    let refused = running
        .user()
        .set(request(b"no manifest at all".to_vec(), NOTHING, &[]))
        .await;
    assert_eq!(code(&refused.err().unwrap()), "not-authorised");
}

#[tokio::test]
async fn a_policy_document_has_to_be_one_of_the_manifests() {
    let bed = Bed::new();
    let running = bed.start().await;
    let manifest = bed.manifest().workload("web");
    let with = |policies: Vec<Vec<u8>>| v1::SetManifestRequest {
        policies,
        ..request(manifest.bytes(), NOTHING, &[])
    };
    let foreign = with(vec![policy_document("other")]);
    let refused = running.user().set(foreign).await.err().unwrap();
    assert_eq!(code(&refused), "manifest-invalid");
    let documents = vec![policy_document("web"), policy_document("coordinator")];
    running.user().set(with(documents.clone())).await.unwrap();
    let (_, entries) = running.user().history().await;
    for object in documents.iter().chain([&manifest.bytes()]) {
        assert!(entries[0].objects.contains(object));
    }
}

#[tokio::test]
async fn a_document_that_no_store_takes_is_named() {
    let bed = Bed::new();
    let mut running = bed.how_to_start(bed.store.clone(), vec![]);
    let path = bed.dir.path().join("history.redb");
    let store = coordinator::store::RedbStore::open(path).await.unwrap();
    running.store = std::sync::Arc::new(store);
    let running = Running::start(running).await.unwrap();
    let large = vec![b'#'; 2 * 1024 * 1024];
    let mut manifest: serde_json::Value = bed.manifest().workload("web").json().clone();
    manifest["Policies"][Digest::of(&large).to_string()] = json!({ "SANs": ["large"] });
    let set = v1::SetManifestRequest {
        policies: vec![large],
        ..request(manifest.to_string().into_bytes(), NOTHING, &[])
    };
    let refused = running.user().set(set).await.err().unwrap();
    assert_eq!(code(&refused), "manifest-invalid");
    assert!(refused.message().contains("2097152 bytes"), "{refused}");
}

#[tokio::test]
async fn the_trust_domain_stays_what_it_is() {
    let bed = Bed::new();
    let manifest = bed.manifest();
    let running = bed.ready(&manifest).await;
    let other = manifest.with("TrustDomain", json!("other.example"));
    let refused = running.update(&other).await.err().unwrap();
    assert_eq!(code(&refused), "manifest-invalid");
    assert!(refused.message().contains("TrustDomain"), "{refused}");
}

#[tokio::test]
async fn a_history_that_the_configured_owners_did_not_begin_is_not_served() {
    // Whoever has the store and a seed of his own can write any history into it.
    let mut bed = Bed::new();
    let running = bed.ready(&bed.manifest().workload("web")).await;
    running.stop().await;
    bed.settings.first_set_owners = vec![workload_owners(1)[0].digest()];
    bed.settings.first_set_quorum = 1;
    let running = bed.start().await;
    let user = running.user();
    let (first, second) = (share_owners(2)[0], share_owners(2)[1]);
    user.give(&user.share(first).await, None).await.unwrap();
    let refused = user.give(&user.share(second).await, None).await;
    assert_eq!(code(&refused.err().unwrap()), "not-authorised");
    let status = running.status().await;
    assert_eq!(status.phase(), v1::Phase::Recovery);
    let stranger = Agent::new(&bed.platform, "web").enrol(&running).await;
    assert_eq!(stranger.err().unwrap().code(), "attestation-refused");
}

#[tokio::test]
async fn a_history_that_the_configured_owners_began_is_recovered() {
    let owner = workload_owners(1)[0];
    let mut bed = Bed::new();
    bed.settings.first_set_owners = vec![owner.digest()];
    bed.settings.first_set_quorum = 1;
    let running = bed.start().await;
    let manifest = bed.manifest();
    let signed = request(manifest.bytes(), NOTHING, &[owner]);
    running.user().set(signed).await.unwrap();
    running.update(&manifest.workload("web")).await.unwrap();
    let head: Head = running.user().head().await;
    running.stop().await;
    let running = bed.start().await;
    running.recover().await;
    let (chain, _) = running.user().history().await;
    chain.check_extends(&head).unwrap();
}

#[tokio::test]
async fn a_manifest_without_share_owners_can_not_be_recovered_and_is_not_valid() {
    let bed = Bed::new();
    let running = bed.start().await;
    let manifest: ManifestBuilder = bed
        .manifest()
        .with("SeedshareOwnerPubKeys", json!([]))
        .with("SeedshareQuorum", json!(0));
    let refused = running.set_first(&manifest).await.err().unwrap();
    assert_eq!(code(&refused), "manifest-invalid");
}
