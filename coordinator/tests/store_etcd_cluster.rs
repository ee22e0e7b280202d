//! Three etcd members, of which some are killed or cut off.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coordinator::store::{AppendError, EtcdOptions, EtcdStore, Store, StoreError};
use store::etcd::PROGRAM;
use store::etcd_cluster::Cluster;
use store::skip;
use store::transition::{Step, append, append_persistently, operations};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn appends_go_on_while_one_member_is_cut_off_and_another_killed_in_turn() {
    if !skip::has(PROGRAM) {
        return;
    }
    let mut cluster = Cluster::start().await;
    let witness = cluster.store(0).await;
    let mut writers = Writers::start(&cluster).await;
    writers.wait_for_more(6).await;

    // The one that leads; the others elect.
    let cut_off = cluster.leader().await;
    cluster.members[cut_off].freeze();
    writers.wait_for_more(12).await;

    cluster.members[cut_off].thaw();
    let killed = (cut_off + 1) % 3;
    cluster.members[killed].kill();
    writers.wait_for_more(12).await;
    cluster.members[killed].run();
    writers.wait_for_more(6).await;

    let mut wanted = writers.stop().await;
    let head = witness.head().await.unwrap();
    let mut found = operations(&witness, head).await;
    assert_eq!(head.unwrap().seq, found.len() as u64);
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted, "nothing lost, nothing twice");
    witness.watch().wait_for(|it| *it == head).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_read_or_appended() {
    if !skip::has(PROGRAM) {
        return;
    }
    let mut cluster = Cluster::start().await;
    let patient = cluster.store(0).await;
    let hasty = EtcdOptions {
        timeout: Duration::from_secs(3),
        ..cluster.options(2)
    };
    let hasty = EtcdStore::connect(hasty).await.unwrap();
    let before = append(&patient, "before", vec![]).await;

    cluster.members[0].freeze();
    cluster.members[1].kill();
    let next = Step::after(Some(before), "next", vec![]);
    assert!(matches!(
        next.append(&hasty).await,
        Err(AppendError::Store(StoreError::Unavailable { .. }))
    ));
    assert!(matches!(
        hasty.head().await,
        Err(StoreError::Unavailable { .. })
    ));
    assert!(matches!(
        hasty.get(&before.transition).await,
        Err(StoreError::Unavailable { .. })
    ));

    cluster.members[0].thaw();
    next.append(&patient).await.unwrap();
    cluster.members[1].run();
    let after = append(&patient, "after", vec![]).await;
    assert_eq!(
        operations(&patient, Some(after)).await,
        ["before", "next", "after"]
    );
    hasty
        .watch()
        .wait_for(|it| *it == Some(after))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_leaves_a_member_that_is_cut_off() {
    if !skip::has(PROGRAM) {
        return;
    }
    let cluster = Cluster::start().await;
    let options = EtcdOptions {
        timeout: Duration::from_secs(6),
        ..cluster.options(0)
    };
    let watching = EtcdStore::connect(options).await.unwrap();
    let appending = cluster.store(1).await;
    let mut watcher = watching.watch();
    let head = append(&appending, "seen", vec![]).await;
    watcher.wait_for(|it| *it == Some(head)).await.unwrap();

    cluster.members[0].freeze();
    let head = append(&appending, "unseen by the member", vec![]).await;
    watcher.wait_for(|it| *it == Some(head)).await.unwrap();
    cluster.members[0].thaw();
}

/// Three Coordinators that append all the time, each to a member of its own while it can.
struct Writers {
    tasks: JoinSet<Vec<String>>,
    appended: watch::Receiver<usize>,
    is_over: Arc<AtomicBool>,
}

impl Writers {
    async fn start(cluster: &Cluster) -> Self {
        let (count, appended) = watch::channel(0);
        let count = Arc::new(count);
        let is_over = Arc::<AtomicBool>::default();
        let mut tasks = JoinSet::new();
        for writer in 0..3 {
            // Short of what an election may take: some answers are lost, and asked for again.
            let options = EtcdOptions {
                timeout: Duration::from_secs(3),
                ..cluster.options(writer)
            };
            let store = EtcdStore::connect(options).await.unwrap();
            let (count, is_over) = (Arc::clone(&count), Arc::clone(&is_over));
            tasks.spawn(async move {
                let mut appended = Vec::new();
                while !is_over.load(Ordering::Acquire) {
                    let operation = format!("{writer}-{}", appended.len());
                    append_persistently(&store, &operation).await;
                    appended.push(operation);
                    count.send_modify(|count| *count += 1);
                }
                appended
            });
        }
        Self {
            tasks,
            appended,
            is_over,
        }
    }

    async fn wait_for_more(&mut self, count: usize) {
        let wanted = *self.appended.borrow() + count;
        tokio::select! {
            appended = self.appended.wait_for(|appended| *appended >= wanted) => {
                appended.unwrap();
            }
            // They end when they are told to, or when they panic.
            ended = self.tasks.join_next() => panic!("{ended:?}"),
        }
    }

    /// What they have appended.
    async fn stop(self) -> Vec<String> {
        self.is_over.store(true, Ordering::Release);
        self.tasks.join_all().await.concat()
    }
}
