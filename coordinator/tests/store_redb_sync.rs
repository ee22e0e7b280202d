//! The disk fails to make a write durable.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod store;

use coordinator::store::{AppendError, RedbStore, Store, StoreError};
use fail::FailScenario;
use store::transition::{Step, append, operations};

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_until_the_file_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let store = RedbStore::open(&path).await.unwrap();
    let head = append(&store, "a", vec![]).await;
    let next = Step::after(Some(head), "b", vec![]);

    let scenario = FailScenario::setup();
    fail::cfg("store::redb::file_sync", "1*return").unwrap();
    assert_not_durable(&next, &store).await;
    scenario.teardown();

    // The sync would succeed by now, and be about other pages.
    assert_not_durable(&next, &store).await;
    assert!(matches!(
        store.head().await,
        Err(StoreError::NotDurable { .. })
    ));
    drop(store);

    let store = RedbStore::open(&path).await.unwrap();
    next.append(&store).await.unwrap();
    assert_eq!(operations(&store, Some(next.head)).await, ["a", "b"]);
}

async fn assert_not_durable(step: &Step, store: &RedbStore) {
    match step.append(store).await {
        Err(AppendError::Store(StoreError::NotDurable { .. })) => {}
        other => panic!("{other:?}"),
    }
}
