//! The store in etcd: the contract of every store, and an etcd that refuses, fails or lies.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod store;

use std::sync::Arc;
use std::time::Duration;

use attestation::Digest;
use coordinator::store::{
    AppendError, EtcdOptions, EtcdStore, Found, MAX_OBJECT_BYTES, Object, Place, Store, StoreError,
};
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client};
use store::etcd::{Etcd, PROGRAM};
use store::transition::{Step, append, noise, operations};
use store::{conformance, skip};

macro_rules! each {
    ($etcd:expr, $($fact:ident),* $(,)?) => {
        $(
            let options = EtcdOptions {
                prefix: concat!("/sealwire/", stringify!($fact), "/").to_owned(),
                ..$etcd.options()
            };
            conformance::$fact(&EtcdStore::connect(options).await.unwrap()).await;
        )*
    };
}

#[tokio::test]
async fn etcd_keeps_the_contract_of_every_store() {
    if !skip::has(PROGRAM) {
        return;
    }
    let etcd = Etcd::start();
    each!(
        etcd,
        an_empty_store_has_no_head_and_no_objects,
        what_was_appended_is_read_back,
        the_loser_of_a_race_learns_the_head_and_leaves_nothing,
        what_should_follow_a_head_that_is_not_there_conflicts,
        asking_again_acknowledges_and_applies_nothing,
        a_number_out_of_turn_is_refused,
        a_head_without_its_transition_is_refused,
        the_size_limit_is_where_it_is_said_to_be,
        more_objects_than_fit_into_a_request_are_all_there,
        an_object_may_come_twice,
        a_watcher_sees_the_last_head,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_coordinators_leave_one_line() {
    if !skip::has(PROGRAM) {
        return;
    }
    let etcd = Etcd::start();
    let mut stores: Vec<Arc<dyn Store>> = Vec::new();
    for _ in 0..8 {
        stores.push(Arc::new(etcd.store().await));
    }
    conformance::racing_writers_leave_one_line(stores, 10).await;
}

#[tokio::test]
async fn an_etcd_that_was_killed_is_found_again() {
    if !skip::has(PROGRAM) {
        return;
    }
    let mut etcd = Etcd::start();
    let store = etcd.store().await;
    let hasty = EtcdOptions {
        timeout: Duration::from_millis(500),
        ..etcd.options()
    };
    let hasty = EtcdStore::connect(hasty).await.unwrap();
    let head = append(&store, "before", vec![]).await;
    let mut watcher = store.watch();
    watcher.wait_for(|it| *it == Some(head)).await.unwrap();

    etcd.kill();
    let next = Step::after(Some(head), "after", vec![]);
    assert_unavailable(&hasty.head().await.unwrap_err(), &etcd);
    match next.append(&hasty).await {
        Err(AppendError::Store(error)) => assert_unavailable(&error, &etcd),
        other => panic!("{other:?}"),
    }
    assert_eq!(*watcher.borrow(), Some(head), "the last that is known");

    etcd.run();
    // The patient one waits for it by itself.
    assert_eq!(store.head().await.unwrap(), Some(head));
    next.append(&store).await.unwrap();
    watcher.wait_for(|it| *it == Some(next.head)).await.unwrap();
    assert_eq!(
        operations(&store, Some(next.head)).await,
        ["before", "after"]
    );
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_not_applied_twice() {
    if !skip::has(PROGRAM) {
        return;
    }
    let etcd = Etcd::start();
    let patient = etcd.store().await;
    let hasty = EtcdOptions {
        timeout: Duration::from_millis(300),
        ..etcd.options()
    };
    let hasty = EtcdStore::connect(hasty).await.unwrap();
    let mut head = None;
    for round in 0..5 {
        let step = Step::after(head, &round.to_string(), vec![]);
        etcd.freeze();
        // The requests lie in etcd's socket, and are carried out when it goes on.
        match step.append(&hasty).await {
            Err(AppendError::Store(error)) => assert_unavailable(&error, &etcd),
            other => panic!("{other:?}"),
        }
        etcd.thaw();
        step.append(&patient).await.unwrap();
        head = Some(step.head);
    }
    assert_eq!(patient.head().await.unwrap(), head);
    assert_eq!(operations(&patient, head).await, ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn what_etcd_makes_up_is_refused() {
    if !skip::has(PROGRAM) {
        return;
    }
    let etcd = Etcd::start();
    let store = etcd.store().await;
    let head = append(&store, "a", b"true".to_vec()).await;
    let mut raw = Client::connect([etcd.endpoint()], None).await.unwrap();
    let mut watcher = store.watch();
    watcher.wait_for(|it| *it == Some(head)).await.unwrap();

    let wanted = Digest::of(b"true");
    let key = format!("/sealwire/objects/{wanted}");
    raw.put(key.as_str(), "false", None).await.unwrap();
    let got = Found::Hash(Digest::of(b"false"));
    assert_corrupt(&store.get(&wanted).await, &Object::Content(wanted), &got);
    for too_long in [MAX_OBJECT_BYTES + 1, MAX_OBJECT_BYTES + 300_000] {
        raw.put(key.as_str(), noise(1, too_long), None)
            .await
            .unwrap();
        assert_corrupt(
            &store.get(&wanted).await,
            &Object::Content(wanted),
            &Found::TooLong,
        );
    }

    let genuine = raw
        .get("/sealwire/head", None)
        .await
        .unwrap()
        .take_kvs()
        .remove(0);
    raw.put("/sealwire/head", "\u{7f}1", None).await.unwrap();
    let got = Found::NotAHead("\\x7f1".to_owned());
    assert_corrupt(&store.head().await, &Object::Head, &got);
    let next = Step::after(Some(head), "b", vec![]);
    match next.append(&store).await {
        Err(AppendError::Store(error)) => {
            assert_corrupt::<()>(&Err(error), &Object::Head, &got);
        }
        other => panic!("{other:?}"),
    }
    // The watcher goes by what it can read.
    raw.delete("/sealwire/head", None).await.unwrap();
    watcher.wait_for(Option::is_none).await.unwrap();
    raw.put("/sealwire/head", genuine.value(), None)
        .await
        .unwrap();
    watcher.wait_for(|it| *it == Some(head)).await.unwrap();
    next.append(&store).await.unwrap();
}

#[tokio::test]
async fn a_used_up_quota_loses_nothing_and_is_over_once_it_is_raised() {
    if !skip::has(PROGRAM) {
        return;
    }
    let quota = |mebibytes: u32| format!("--quota-backend-bytes={}", mebibytes << 20);
    let mut etcd = Etcd::start_with(&[quota(4)]);
    let store = etcd.store().await;
    let mut head = None;
    let mut appends = 0;
    let full = loop {
        let step = Step::after(head, &appends.to_string(), noise(appends, 600_000));
        match step.append(&store).await {
            Ok(()) => head = Some(step.head),
            Err(AppendError::Full { place }) => {
                assert_eq!(place, Place::Etcd(etcd.endpoint()));
                break step;
            }
            Err(error) => panic!("{error:?}"),
        }
        appends += 1;
    };
    assert!(appends > 1, "{appends} appends fit");
    assert_eq!(store.head().await.unwrap(), head);

    etcd.kill();
    let mut arguments = etcd.arguments().to_vec();
    arguments.retain(|it| !it.starts_with("--quota"));
    arguments.push(quota(64));
    etcd.set_arguments(arguments);
    etcd.run();
    assert_eq!(store.head().await.unwrap(), head);
    let mut raw = Client::connect([etcd.endpoint()], None).await.unwrap();
    let member = raw.status().await.unwrap().header().unwrap().member_id();
    let mut of_member = AlarmOptions::new();
    of_member.with_member(member);
    raw.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of_member))
        .await
        .unwrap();
    full.append(&store).await.unwrap();
    let found = operations(&store, Some(full.head)).await;
    assert_eq!(found.len() as u64, appends + 1);
}

#[tokio::test]
async fn a_smaller_request_limit_than_usual_is_named() {
    if !skip::has(PROGRAM) {
        return;
    }
    let etcd = Etcd::start_with(&["--max-request-bytes=65536".to_owned()]);
    let store = etcd.store().await;
    match Step::after(None, "a", noise(1, 100_000))
        .append(&store)
        .await
    {
        Err(AppendError::Store(StoreError::RequestTooLarge { endpoint })) => {
            assert_eq!(endpoint, etcd.endpoint());
        }
        other => panic!("{other:?}"),
    }
}

fn assert_unavailable(error: &StoreError, etcd: &Etcd) {
    match error {
        StoreError::Unavailable { place, .. } => assert_eq!(*place, Place::Etcd(etcd.endpoint())),
        other => panic!("{other:?}"),
    }
}

fn assert_corrupt<T: std::fmt::Debug>(
    result: &Result<T, StoreError>,
    wanted: &Object,
    wanted_got: &Found,
) {
    match result {
        Err(StoreError::Corrupt { object, got }) => {
            assert_eq!((object, got), (wanted, wanted_got));
        }
        other => panic!("{other:?}"),
    }
}
