//! The store in one file: the contract of every store, who may open the file, what others see.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod store;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use coordinator::store::{RedbStore, Store, StoreError};
use store::conformance;
use store::transition::{append, noise, operations};

macro_rules! facts {
    ($($fact:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $fact() {
                let dir = tempfile::tempdir().unwrap();
                let store = open(&dir.path().join("history")).await;
                conformance::$fact(&store).await;
            }
        )*
    };
}

facts! {
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
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_writers_leave_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(open(&dir.path().join("history")).await);
    conformance::racing_writers_leave_one_line(vec![store; 8], 25).await;
}

#[tokio::test]
async fn everything_is_there_when_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let store = open(&path).await;
    append(&store, "a", noise(1, 5000)).await;
    let head = append(&store, "b", noise(2, 100_000)).await;
    drop(store);

    let store = open(&path).await;
    assert_eq!(store.head().await.unwrap(), Some(head));
    assert_eq!(*store.watch().borrow(), Some(head));
    assert_eq!(operations(&store, Some(head)).await, ["a", "b"]);
    append(&store, "c", vec![]).await;
}

#[tokio::test]
async fn the_file_is_its_owners_alone_and_has_no_company() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let store = open(&path).await;
    append(&store, "a", vec![]).await;
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["history"]);
}

#[tokio::test]
async fn a_file_that_is_open_is_named_as_locked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let store = open(&path).await;
    match RedbStore::open(&path).await {
        Err(error @ StoreError::Locked { .. }) => {
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    append(&store, "unharmed", vec![]).await;
    drop(store);
    open(&path).await;
}

#[tokio::test]
async fn of_many_that_make_the_file_at_once_one_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let openings: Vec<_> = (0..8)
        .map(|_| tokio::spawn(RedbStore::open(path.clone())))
        .collect();
    let mut opened = Vec::new();
    for opening in openings {
        match opening.await.unwrap() {
            Ok(store) => opened.push(store),
            Err(StoreError::Locked { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(opened.len(), 1);
    append(&opened[0], "a", vec![]).await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing/history");
    match RedbStore::open(&path).await {
        Err(StoreError::Io { path: named, .. }) => assert_eq!(named, path),
        other => panic!("{other:?}"),
    }
}

/// The store alone can't tell: whoever reads history compares the head with the highest it saw.
#[tokio::test]
async fn an_older_copy_of_the_file_looks_like_a_true_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("history"), dir.path().join("copy"));
    let store = open(&path).await;
    let older = append(&store, "a", vec![]).await;
    drop(store);
    fs::copy(&path, &copy).unwrap();
    let store = open(&path).await;
    append(&store, "b", vec![]).await;
    drop(store);

    fs::rename(&copy, &path).unwrap();
    assert_eq!(open(&path).await.head().await.unwrap(), Some(older));
}

async fn open(path: &Path) -> RedbStore {
    RedbStore::open(path).await.unwrap()
}
