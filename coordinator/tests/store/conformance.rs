//! What every store must do. Each function is one fact, and gets a store that nothing is in.

use std::sync::Arc;

use attestation::Digest;
use coordinator::store::{AppendError, MAX_OBJECT_BYTES, Misuse, Store, StoreError, StoredHead};

use super::transition::{Step, append, append_persistently, noise, operations, operations_since};

pub(crate) async fn an_empty_store_has_no_head_and_no_objects(store: &dyn Store) {
    assert_eq!(store.head().await.unwrap(), None);
    assert_eq!(*store.watch().borrow(), None);
    assert_eq!(store.get(&Digest::of(b"anything")).await.unwrap(), None);
}

pub(crate) async fn what_was_appended_is_read_back(store: &dyn Store) {
    let mut expected = None;
    for (operation, payload) in [
        ("a", noise(1, 0)),
        ("b", noise(2, 1)),
        ("c", noise(3, 70_000)),
    ] {
        let step = Step::after(expected, operation, payload);
        step.append(store).await.unwrap();
        expected = Some(step.head);
        assert_eq!(store.head().await.unwrap(), expected);
        for object in &step.objects {
            let read = store.get(&Digest::of(object)).await.unwrap();
            assert_eq!(read.as_ref(), Some(object));
        }
    }
    assert_eq!(operations(store, expected).await, ["a", "b", "c"]);
}

pub(crate) async fn the_loser_of_a_race_learns_the_head_and_leaves_nothing(store: &dyn Store) {
    let first = append(store, "first", vec![]).await;
    let winner = Step::after(Some(first), "winner", b"winner".to_vec());
    let loser = Step::after(Some(first), "loser", b"loser".to_vec());
    winner.append(store).await.unwrap();
    assert_conflict(&loser, store, Some(winner.head)).await;
    assert_eq!(store.head().await.unwrap(), Some(winner.head));
    for object in &loser.objects {
        assert_eq!(store.get(&Digest::of(object)).await.unwrap(), None);
    }

    let another_start = Step::after(None, "start", vec![]);
    assert_conflict(&another_start, store, Some(winner.head)).await;
}

pub(crate) async fn what_should_follow_a_head_that_is_not_there_conflicts(store: &dyn Store) {
    let imagined = Step::after(None, "imagined", vec![]).head;
    assert_conflict(&Step::after(Some(imagined), "next", vec![]), store, None).await;
    assert_eq!(store.head().await.unwrap(), None);
}

pub(crate) async fn asking_again_acknowledges_and_applies_nothing(store: &dyn Store) {
    let first = Step::after(None, "first", vec![]);
    let second = Step::after(Some(first.head), "second", vec![]);
    first.append(store).await.unwrap();
    first.append(store).await.unwrap();
    second.append(store).await.unwrap();
    first.append(store).await.unwrap();
    assert_eq!(store.head().await.unwrap(), Some(second.head));
    assert_eq!(
        operations(store, Some(second.head)).await,
        ["first", "second"]
    );
}

pub(crate) async fn a_number_out_of_turn_is_refused(store: &dyn Store) {
    let head = append(store, "first", vec![]).await;
    let next = Step::after(Some(head), "second", vec![]);
    for seq in [0, 1, 3, u64::MAX] {
        let mut wrong = next.clone();
        wrong.head.seq = seq;
        assert!(matches!(
            wrong.append(store).await,
            Err(AppendError::Refused(Misuse::NotNext { .. }))
        ));
    }
    let last = StoredHead {
        seq: u64::MAX,
        ..head
    };
    let after_the_last = Step {
        expected: Some(last),
        head: StoredHead {
            seq: 0,
            ..next.head
        },
        ..next
    };
    assert!(matches!(
        after_the_last.append(store).await,
        Err(AppendError::Refused(Misuse::NotNext { .. }))
    ));
    assert_eq!(store.head().await.unwrap(), Some(head));
}

pub(crate) async fn a_head_without_its_transition_is_refused(store: &dyn Store) {
    let mut step = Step::after(None, "first", vec![]);
    step.objects.pop();
    assert!(matches!(
        step.append(store).await,
        Err(AppendError::Refused(Misuse::NoTransition { head })) if head == step.head
    ));
    assert_eq!(store.head().await.unwrap(), None);
}

pub(crate) async fn the_size_limit_is_where_it_is_said_to_be(store: &dyn Store) {
    let head = append(store, "largest", noise(1, MAX_OBJECT_BYTES)).await;
    let too_large = Step::after(Some(head), "larger", noise(2, MAX_OBJECT_BYTES + 1));
    match too_large.append(store).await {
        Err(AppendError::Store(StoreError::TooLarge { size, limit, .. })) => {
            assert_eq!((size, limit), (MAX_OBJECT_BYTES + 1, MAX_OBJECT_BYTES));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(operations(store, Some(head)).await, ["largest"]);
}

pub(crate) async fn more_objects_than_fit_into_a_request_are_all_there(store: &dyn Store) {
    let mut step = Step::after(None, "many", noise(0, MAX_OBJECT_BYTES));
    step.objects.extend((1..=3).map(|it| noise(it, 900_000)));
    step.objects.extend((10..300).map(|it| noise(it, 100)));
    step.append(store).await.unwrap();
    assert_eq!(store.head().await.unwrap(), Some(step.head));
    for object in &step.objects {
        let read = store.get(&Digest::of(object)).await.unwrap();
        assert_eq!(read.as_ref(), Some(object));
    }
}

pub(crate) async fn an_object_may_come_twice(store: &dyn Store) {
    let mut step = Step::after(None, "twice", b"the same".to_vec());
    step.objects.push(b"the same".to_vec());
    step.append(store).await.unwrap();
    let again = append(store, "thrice", b"the same".to_vec()).await;
    assert_eq!(operations(store, Some(again)).await, ["twice", "thrice"]);
}

pub(crate) async fn a_watcher_sees_the_last_head(store: &dyn Store) {
    let mut early = store.watch();
    let mut head = None;
    for operation in ["a", "b", "c"] {
        head = Some(append(store, operation, vec![]).await);
        early.wait_for(|seen| *seen == head).await.unwrap();
    }
    let mut late = store.watch();
    late.wait_for(|seen| *seen == head).await.unwrap();
}

/// Eight writers with a handle each; `stores` are handles of one store.
pub(crate) async fn racing_writers_leave_one_line(stores: Vec<Arc<dyn Store>>, appends: usize) {
    let store = Arc::clone(&stores[0]);
    let watched = tokio::spawn(watch_grow(Arc::clone(&store), stores.len() * appends));
    let writers = stores.into_iter().enumerate().map(|(writer, store)| {
        tokio::spawn(async move {
            let mut mine = Vec::new();
            for n in 0..appends {
                let operation = format!("{writer}-{n}");
                append_persistently(&*store, &operation).await;
                mine.push(operation);
            }
            mine
        })
    });
    let mut wanted = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        wanted.extend(writer.await.unwrap());
    }
    watched.await.unwrap();

    let head = store.head().await.unwrap();
    let mut found = operations_since(&*store, head, None).await;
    assert_eq!(head.unwrap().seq, wanted.len() as u64);
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted, "nothing lost, nothing twice");
}

/// Sees the head move forward alone, until there are so many.
async fn watch_grow(store: Arc<dyn Store>, last: usize) {
    let mut heads = store.watch();
    let mut seen = 0;
    while seen < last as u64 {
        let head = *heads.borrow_and_update();
        let seq = head.map_or(0, |it| it.seq);
        assert!(seq >= seen, "a watcher was told {seq} after {seen}");
        seen = seq;
        if seen < last as u64 {
            heads.changed().await.unwrap();
        }
    }
}

async fn assert_conflict(step: &Step, store: &dyn Store, head: Option<StoredHead>) {
    match step.append(store).await {
        Err(AppendError::Conflict(current)) => assert_eq!(current, head),
        other => panic!("{other:?}"),
    }
}
