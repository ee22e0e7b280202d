//! Back from a restart, and what a store can do meanwhile.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use api::v1;
use attestation::Digest;
use coordinator::deployment::Entry;
use coordinator::store::StoredHead;
use history::Head;
use seed::Share;
use support::agent::Agent;
use support::bed::Bed;
use support::manifest::{COORDINATOR, ManifestBuilder};
use support::owners::share_owners;
use support::running::Running;
use support::store::{Contents, Outage};
use support::{code, until};

#[tokio::test]
async fn too_few_shares_are_counted_and_nobody_is_let_in() {
    let bed = Bed::new();
    let running = restarted(&bed, &one(&bed)).await;
    let status = running.status().await;
    assert_eq!(status.phase(), v1::Phase::Recovery);
    assert_eq!(progress(&status), (0, 2));
    let user = running.user();
    let share = user.share(share_owners(1)[0]).await;
    let answer = user.give(&share, None).await.unwrap();
    assert_eq!((answer.have, answer.need, answer.recovered), (1, 2, false));
    let status = running.status().await;
    assert_eq!(status.phase(), v1::Phase::Recovery);
    assert_eq!(progress(&status), (1, 2));
    assert_eq!(status.root_ca, "", "nothing is verified yet");
    let refused = running.update(&one(&bed)).await.err().unwrap();
    assert_eq!(code(&refused), "in-recovery");
    let agent = Agent::new(&bed.platform, "web").enrol(&running).await;
    assert_eq!(agent.err().unwrap().code(), "attestation-refused");
    assert!(running.get("/ready").await.contains("503"));
}

#[tokio::test]
async fn a_share_that_is_not_as_it_should_be_is_named() {
    let bed = Bed::new();
    let running = restarted(&bed, &one(&bed)).await;
    let user = running.user();
    let [first, second, _] = share_owners(3)[..] else {
        unreachable!()
    };
    let (first, second) = (user.share(first).await, user.share(second).await);
    let foreign = {
        let other = Bed::new();
        let running = other.ready(&one(&other)).await;
        running.user().share(share_owners(1)[0]).await
    };
    user.give(&first, None).await.unwrap();
    for (share, word) in [
        (first.encode().to_vec(), "duplicated"),
        (foreign.encode().to_vec(), "stale"),
        (changed(&second, INDEX, 3), "swapped"),
        (changed(&second, INDEX, 9), "the shares are 1 to 3"),
        (changed(&second, THRESHOLD, 1), "threshold"),
        (changed(&second, VALUE, 0xaa), "does not match"),
        (second.encode()[1..].to_vec(), "bytes"),
        (vec![], "bytes"),
    ] {
        let request = v1::RecoverRequest { share, known: None };
        let refused = user.client().await.recover(request).await;
        let refused = refused.err().unwrap();
        assert_eq!(code(&refused), "share-refused");
        assert!(refused.message().contains(word), "{word}: {refused}");
    }
    let answer = user.give(&second, None).await.unwrap();
    assert!(answer.recovered, "what was refused has changed nothing");
    let refused = user.give(&second, None).await.err().unwrap();
    assert_eq!(code(&refused), "not-in-recovery");
}

#[tokio::test]
async fn before_the_first_manifest_there_is_nothing_to_recover() {
    let bed = Bed::new();
    let share = {
        let running = bed.ready(&one(&bed)).await;
        running.user().share(share_owners(1)[0]).await
    };
    let running = Bed::new();
    let running = running.start().await;
    let user = support::user::User::new(&running.platform, &running.user_api);
    let refused = user.give(&share, None).await.err().unwrap();
    assert_eq!(code(&refused), "not-in-recovery");
}

#[tokio::test]
async fn recovery_keeps_root_and_history_and_old_certificates_stay_trusted() {
    let bed = Bed::new();
    let manifest = one(&bed);
    let running = bed.ready(&manifest).await;
    running.update(&manifest.workload("new")).await.unwrap();
    until_done(&running).await;
    let mut agent = Agent::new(&bed.platform, "web");
    agent.enrol(&running).await.unwrap();
    let before = running.status().await;
    let (history, entries) = running.user().history().await;
    running.stop().await;

    let running = bed.start().await;
    running.recover().await;
    let after = running.status().await;
    assert_eq!(after.root_ca, before.root_ca);
    assert_eq!(after.transition_key, before.transition_key);
    assert_eq!(after.manifest, before.manifest);
    assert_eq!(after.mesh_cas[1..], before.mesh_cas);
    let (chain, kept) = running.user().history().await;
    chain.check_extends(&history.head()).unwrap();
    assert_eq!(kept[..entries.len()], entries);
    let answer = agent.enrol(&running).await.unwrap();
    assert_eq!(answer.certificates[0].generation, chain.head().seq);
    assert_eq!(answer.state.unwrap().mesh_cas, after.mesh_cas);
}

#[tokio::test]
async fn a_peer_gives_the_keys_so_that_nothing_changes() {
    let bed = Bed::new();
    let first = bed.ready(&one(&bed)).await;
    let mut agent = Agent::new(&bed.platform, "web");
    let before = agent.enrol(&first).await.unwrap();
    let second = bed.start_beside(&[&first]).await;
    until_ready(&second).await;
    let after = agent.enrol(&second).await.unwrap();
    assert_eq!(after.certificates[0].generation, 1);
    assert_eq!(
        after.state.unwrap().mesh_cas,
        before.state.as_ref().unwrap().mesh_cas
    );
    let issuer = |answer: &str| ders(answer)[1].clone();
    assert_eq!(
        issuer(&after.certificates[0].chain),
        issuer(&before.certificates[0].chain)
    );
    assert_eq!(second.user().head().await.seq, 1, "no transition");
    let events = bed.audit();
    let recovered = events.iter().find(|it| it["event"] == "recovered").unwrap();
    assert_eq!(recovered["from"], first.mesh_api);
    assert!(events.iter().any(|it| it["event"] == "peer-recovered"));
}

#[tokio::test]
async fn a_manifest_that_one_coordinator_sets_the_other_can_issue_under() {
    let bed = Bed::new();
    let manifest = one(&bed).rotation("strict", 1);
    let first = bed.ready(&manifest).await;
    let second = bed.start_beside(&[&first]).await;
    until_ready(&second).await;
    first.update(&manifest.workload("new")).await.unwrap();
    let mut agent = Agent::new(&bed.platform, "new");
    let answer = until("a certificate of the new generation", async || {
        agent.enrol(&second).await.ok()
    })
    .await;
    assert_eq!(answer.certificates[0].generation, 2);
}

#[tokio::test]
async fn nobody_but_a_coordinator_is_given_the_secrets() {
    let bed = Bed::new();
    let running = bed.ready(&one(&bed)).await;
    let mut agent = Agent::new(&bed.platform, "web")
        .connect(&running.mesh_api)
        .await
        .unwrap();
    let refused = agent.client.recover_peer(v1::RecoverPeerRequest {}).await;
    assert_eq!(code(&refused.err().unwrap()), "not-allowed");
    let asked = v1::GetPendingRequest { generation: 1 };
    let refused = agent.client.get_pending(asked).await.err().unwrap();
    assert_eq!(code(&refused), "not-allowed");
    assert!(bed.audit().iter().all(|it| it["event"] != "peer-recovered"));
    let mut coordinator = Agent::new(&bed.platform, COORDINATOR)
        .connect(&running.mesh_api)
        .await
        .unwrap();
    let given = coordinator.client.recover_peer(v1::RecoverPeerRequest {});
    assert_eq!(given.await.unwrap().into_inner().seed.len(), 64);
}

#[tokio::test]
async fn a_store_that_was_rolled_back_is_found_out_by_what_an_agent_remembers() {
    let bed = Bed::new();
    let manifest = one(&bed).workload("other").rotation("strict", 1);
    let running = bed.ready(&manifest).await;
    let old = bed.store.copy();
    running
        .update(&manifest.clone().workload("x"))
        .await
        .unwrap();
    let mut agent = Agent::new(&bed.platform, "web");
    agent.enrol(&running).await.unwrap();
    running.stop().await;

    bed.store.replace(old);
    let running = bed.start().await;
    running.recover().await;
    assert!(running.get("/ready").await.contains("200 OK"));
    let refused = agent.enrol(&running).await.err().unwrap();
    assert_eq!(refused.code(), "store");
    let reason = bed.reason(&refused.id()).await;
    assert!(reason.contains("rewritten"), "{reason}");
    assert!((running.metric("store_fault").await - 1.0).abs() < f64::EPSILON);
    let ready = running.get("/ready").await;
    assert!(ready.contains("503") && ready.contains("store-fault"));
    // It serves on for those who know no better, and changes nothing.
    let mut newcomer = Agent::new(&bed.platform, "other");
    newcomer.enrol(&running).await.unwrap();
    let refused = running.update(&manifest.workload("y")).await.err().unwrap();
    assert_eq!(code(&refused), "store");
}

#[tokio::test]
async fn a_store_that_was_rolled_back_is_found_out_by_what_an_owner_remembers() {
    let bed = Bed::new();
    let manifest = one(&bed).rotation("strict", 1);
    let running = bed.ready(&manifest).await;
    running
        .update(&manifest.clone().workload("x"))
        .await
        .unwrap();
    let old = bed.store.copy();
    let known_to_first = running.user().head().await;
    running.update(&manifest.workload("y")).await.unwrap();
    let known_to_second = running.user().head().await;
    running.stop().await;
    bed.store.replace(old);
    let running = bed.start().await;
    let user = running.user();
    let (first, second) = (share_owners(2)[0], share_owners(2)[1]);
    let share = user.share(first).await;
    user.give(&share, Some(&known_to_first)).await.unwrap();
    let share = user.share(second).await;
    let refused = user.give(&share, Some(&known_to_second)).await;
    let refused = refused.err().unwrap();
    assert_eq!(code(&refused), "store");
    assert!(refused.message().contains("rolled back"), "{refused}");
    let status = running.status().await;
    assert_eq!(status.phase(), v1::Phase::Recovery);
    assert_eq!(progress(&status), (1, 2));
}

#[tokio::test]
async fn what_the_first_owner_remembers_counts_with_the_last_share_too() {
    let bed = Bed::new();
    let manifest = one(&bed).rotation("strict", 1);
    let running = bed.ready(&manifest).await;
    running
        .update(&manifest.clone().workload("x"))
        .await
        .unwrap();
    running.update(&manifest.workload("y")).await.unwrap();
    running.stop().await;
    let running = bed.start().await;
    let user = running.user();
    let another = Head {
        seq: 2,
        hash: Digest([1; 32]),
    };
    let (first, second) = (share_owners(2)[0], share_owners(2)[1]);
    let share = user.share(first).await;
    user.give(&share, Some(&another)).await.unwrap();
    let share = user.share(second).await;
    let refused = user.give(&share, None).await.err().unwrap();
    assert_eq!(code(&refused), "store");
    assert!(refused.message().contains("forked"), "{refused}");
}

#[tokio::test]
async fn a_store_that_was_tampered_with_is_named_and_not_recovered_from() {
    let bed = Bed::new();
    let manifest = one(&bed).rotation("strict", 1);
    let running = bed.ready(&manifest).await;
    running
        .update(&manifest.clone().workload("x"))
        .await
        .unwrap();
    running
        .update(&manifest.clone().workload("y"))
        .await
        .unwrap();
    running.stop().await;
    let good = bed.store.copy();
    let manifest_of_first = manifest.hash();
    let tampered: [(&str, Contents); 6] = [
        ("damaged", {
            let mut store = good.clone();
            flip(store.objects.get_mut(&manifest_of_first).unwrap());
            store
        }),
        ("has lost the manifest of transition 1", {
            let mut store = good.clone();
            store.objects.remove(&manifest_of_first).unwrap();
            store
        }),
        ("has lost the transition of transition 2", {
            let mut store = good.clone();
            store.objects.remove(&good.log[1].transition).unwrap();
            store
        }),
        ("transition 1: the signature is wrong", {
            rewritten(&good, 1, |entry| {
                entry.transition.transition.time += 1;
            })
        }),
        ("transition 3: the signature is wrong", {
            rewritten(&good, 3, |entry| flip(&mut entry.transition.signature))
        }),
        ("reordered", {
            rewritten(&good, 3, |entry| {
                entry.previous = Some(good.log[0].transition);
            })
        }),
    ];
    for (named, contents) in tampered {
        bed.store.replace(contents);
        let running = bed.start().await;
        let user = running.user();
        let (first, second) = (share_owners(2)[0], share_owners(2)[1]);
        user.give(&user.share(first).await, None).await.unwrap();
        let refused = user.give(&user.share(second).await, None).await;
        let refused = refused.err().unwrap();
        assert_eq!(code(&refused), "store", "{named}: {refused}");
        let reason = bed.reason(support::id(&refused)).await;
        assert!(reason.contains(named), "{named}: {reason}");
        assert_eq!(running.status().await.phase(), v1::Phase::Recovery);
        // Put right, the last share is enough; nobody has to come again but its owner.
        bed.store.replace(good.clone());
        let again = user.share(second).await;
        assert!(user.give(&again, None).await.unwrap().recovered);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_head_that_is_none_is_named_at_the_start() {
    let bed = Bed::new();
    let running = bed.ready(&one(&bed)).await;
    running.stop().await;
    let good = bed.store.copy();
    let mut reordered = good.clone();
    reordered.head.as_mut().unwrap().seq = 2;
    bed.store.replace(reordered);
    let error = bed.try_start().await.err().unwrap().to_string();
    assert!(error.contains("reordered"), "{error}");
    bed.store.replace(good);
    bed.store.fail(Outage::HeadFlipped);
    let error = bed.try_start().await.err().unwrap().to_string();
    assert!(error.contains("the store's head is damaged"), "{error}");
}

#[tokio::test]
async fn a_store_that_is_tampered_with_meanwhile_is_not_believed() {
    let bed = Bed::new();
    let manifest = one(&bed).rotation("strict", 1);
    let running = bed.ready(&manifest).await;
    let old = bed.store.copy();
    running
        .update(&manifest.clone().workload("x"))
        .await
        .unwrap();
    let good = bed.store.copy();
    let fork = {
        let other = Bed::new();
        let running = other.ready(&one(&other).rotation("strict", 1)).await;
        for name in ["p", "q"] {
            let next = one(&other).rotation("strict", 1).workload(name);
            running.update(&next).await.unwrap();
        }
        other.store.copy()
    };
    let mut agent = Agent::new(&bed.platform, "web");
    let tampered = [
        ("rolled back", old),
        ("lost its whole history", Contents::default()),
        ("forked", fork),
    ];
    for (word, contents) in tampered {
        bed.store.replace(contents);
        until(word, async || running.coordinator.store_fault()).await;
        let fault = running.coordinator.store_fault().unwrap();
        assert!(fault.contains(word), "{word}: {fault}");
        agent.enrol(&running).await.unwrap();
        let refused = running.update(&manifest).await.err().unwrap();
        assert_eq!(code(&refused), "store", "{word}");
        bed.store.replace(good.clone());
        until("trust again", async || {
            running.coordinator.store_fault().is_none().then_some(())
        })
        .await;
    }
    bed.store.fail(Outage::HeadFlipped);
    until("a flipped head", async || running.coordinator.store_fault()).await;
    bed.store.fail(Outage::None);
    running.update(&manifest.workload("y")).await.unwrap();
}

#[tokio::test]
async fn while_the_store_is_away_certificates_are_issued_and_nothing_is_changed() {
    let bed = Bed::new();
    let manifest = one(&bed).rotation("strict", 1);
    let running = bed.ready(&manifest).await;
    let mut agent = Agent::new(&bed.platform, "web");
    agent.enrol(&running).await.unwrap();
    bed.store.fail(Outage::All);
    agent.enrol(&running).await.unwrap();
    let refused = running.update(&manifest).await.err().unwrap();
    assert_eq!(code(&refused), "store-unavailable");
    assert_eq!(
        running.coordinator.store_fault(),
        None,
        "it is not there, that is all"
    );
    assert!(running.get("/ready").await.contains("200 OK"));
    bed.store.fail(Outage::None);
    running.update(&manifest.workload("x")).await.unwrap();
    assert_eq!(running.user().head().await.seq, 2);
}

#[tokio::test]
async fn a_recovery_that_the_store_interrupts_is_ended_by_the_last_owner() {
    let bed = Bed::new();
    let running = restarted(&bed, &one(&bed)).await;
    let user = running.user();
    let (first, second) = (share_owners(2)[0], share_owners(2)[1]);
    user.give(&user.share(first).await, None).await.unwrap();
    let share = user.share(second).await;
    bed.store.fail(Outage::All);
    let refused = user.give(&share, None).await.err().unwrap();
    assert_eq!(code(&refused), "store-unavailable");
    bed.store.fail(Outage::None);
    assert!(user.give(&share, None).await.unwrap().recovered);
}

#[tokio::test]
async fn an_update_whose_outcome_was_not_told_is_found_with_its_keys() {
    let bed = Bed::new();
    let manifest = one(&bed).rotation("strict", 1);
    let running = bed.ready(&manifest).await;
    let next = manifest.workload("new");
    // The store answers once more, and then an append is not answered.
    let signed = {
        let head = running.user().head().await;
        support::user::request(
            next.bytes(),
            head.hash,
            &support::owners::workload_owners(1),
        )
    };
    bed.store.fail(Outage::Answers);
    let refused = running.user().set(signed).await.err().unwrap();
    assert_eq!(code(&refused), "store-unavailable");
    bed.store.fail(Outage::None);
    let mut agent = Agent::new(&bed.platform, "new");
    let answer = until("the new generation", async || {
        agent.enrol(&running).await.ok()
    })
    .await;
    assert_eq!(answer.certificates[0].generation, 2);
    assert_eq!(running.user().head().await.seq, 2, "once, and no other");
}

#[tokio::test]
async fn a_first_manifest_whose_outcome_was_not_told_is_found_with_its_seed() {
    let bed = Bed::new();
    let running = bed.start().await;
    bed.store.fail(Outage::Answers);
    let refused = running.set_first(&one(&bed)).await.err().unwrap();
    assert_eq!(code(&refused), "store-unavailable");
    bed.store.fail(Outage::None);
    until_ready(&running).await;
    let mut agent = Agent::new(&bed.platform, "web");
    let answer = agent.enrol(&running).await.unwrap();
    assert_eq!(answer.certificates[0].generation, 1);
    assert_eq!(running.user().head().await.seq, 1);
}

#[tokio::test]
async fn shares_that_were_given_outlast_a_rotation_of_another_coordinator() {
    let bed = Bed::new();
    let manifest = one(&bed).rotation("strict", 1);
    let first = bed.ready(&manifest).await;
    let second = bed.start().await;
    let user = second.user();
    let share = user.share(share_owners(1)[0]).await;
    user.give(&share, None).await.unwrap();
    first.update(&manifest.workload("x")).await.unwrap();
    until("news of the update", async || {
        (second.user().head().await.seq == 2).then_some(())
    })
    .await;
    assert_eq!(progress(&second.status().await), (1, 2));
    let share = user.share(share_owners(2)[1]).await;
    assert!(user.give(&share, None).await.unwrap().recovered);
}

fn one(bed: &Bed) -> ManifestBuilder {
    bed.manifest().workload("web").rotation("graceful", 1)
}

async fn restarted(bed: &Bed, manifest: &ManifestBuilder) -> Running {
    bed.ready(manifest).await.stop().await;
    bed.start().await
}

async fn until_ready(running: &Running) {
    until("the Coordinator is ready", async || {
        (running.status().await.phase() == v1::Phase::Ready).then_some(())
    })
    .await;
}

async fn until_done(running: &Running) {
    until("the end of the rotation", async || {
        let rotation = running.status().await.rotation.unwrap();
        (rotation.stage() == v1::Stage::Done).then_some(())
    })
    .await;
}

fn progress(status: &v1::Status) -> (u32, u32) {
    let recovery = status.recovery.unwrap();
    (recovery.have, recovery.need)
}

/// The share with one of its bytes changed, counted from the end.
fn changed(share: &Share, from_end: usize, to: u8) -> Vec<u8> {
    let mut bytes = share.encode().to_vec();
    let position = bytes.len() - from_end;
    assert_ne!(bytes[position], to);
    bytes[position] = to;
    bytes
}

const VALUE: usize = 1;
const THRESHOLD: usize = 65;
const INDEX: usize = 66;

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

/// The store of somebody who changes one entry, and then all addresses that follow from it.
fn rewritten(good: &Contents, seq: usize, change: impl FnOnce(&mut Entry)) -> Contents {
    let mut store = good.clone();
    let mut entries: Vec<_> = good
        .log
        .iter()
        .map(|it| Entry::decode(&good.objects[&it.transition]).unwrap())
        .collect();
    change(&mut entries[seq - 1]);
    let mut previous = None;
    for (position, mut entry) in entries.into_iter().enumerate() {
        if position >= seq {
            entry.previous = previous;
        }
        let bytes = entry.encode();
        let head = StoredHead {
            seq: position as u64 + 1,
            transition: Digest::of(&bytes),
        };
        store.objects.insert(head.transition, bytes);
        store.log[position] = head;
        store.head = Some(head);
        previous = Some(head.transition);
    }
    store
}

fn ders(pem: &str) -> Vec<Vec<u8>> {
    x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes())
        .map(|it| it.unwrap().contents)
        .collect()
}
