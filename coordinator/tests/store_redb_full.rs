//! No space is left on the file system.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod store;

use std::fs;
use std::path::Path;

use coordinator::store::{AppendError, Place, RedbStore, Store, StoreError, StoredHead};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use store::skip;
use store::transition::{Step, noise, operations};

const KIB: usize = 1024;

#[tokio::test]
async fn a_full_disk_loses_nothing_and_is_over_once_there_is_space() {
    if !skip::is_root() {
        return;
    }
    let disk = SmallDisk::mount(4 * KIB * KIB);
    disk.fill(2 * KIB * KIB);
    let path = disk.path().join("history");
    let store = RedbStore::open(&path).await.unwrap();

    let (head, appends) = append_until_full(&store, &path).await;
    assert!(appends > 3, "{appends} appends fit");
    // Full again and again is not worse than full once.
    for _ in 0..3 {
        assert_full(&next(head), &store, &path).await;
    }
    assert_intact(&store, head, appends).await;

    drop(store);
    let store = RedbStore::open(&path).await.unwrap();
    assert_intact(&store, head, appends).await;
    assert_full(&next(head), &store, &path).await;

    disk.free();
    next(head).append(&store).await.unwrap();
    assert_intact(&store, Some(next(head).head), appends + 1).await;
    drop(store);
    let store = RedbStore::open(&path).await.unwrap();
    assert_intact(&store, Some(next(head).head), appends + 1).await;
}

#[tokio::test]
async fn a_store_that_does_not_fit_is_not_half_made() {
    if !skip::is_root() {
        return;
    }
    let disk = SmallDisk::mount(4 * KIB * KIB);
    disk.fill(4 * KIB * KIB - 8 * KIB);
    let path = disk.path().join("history");
    match RedbStore::open(&path).await {
        Err(StoreError::Full { place }) => assert_eq!(place, Place::File(path.clone())),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        fs::read_dir(disk.path()).unwrap().count(),
        1,
        "the filler alone"
    );

    disk.free();
    let store = RedbStore::open(&path).await.unwrap();
    next(None).append(&store).await.unwrap();
}

async fn append_until_full(store: &RedbStore, path: &Path) -> (Option<StoredHead>, usize) {
    let mut head = None;
    for appends in 0..1000 {
        let step = next(head);
        match step.append(store).await {
            Ok(()) => head = Some(step.head),
            Err(error) => {
                is_full(&error, path);
                return (head, appends);
            }
        }
    }
    panic!("the disk is never full");
}

async fn assert_full(step: &Step, store: &RedbStore, path: &Path) {
    is_full(&step.append(store).await.unwrap_err(), path);
}

fn is_full(error: &AppendError, path: &Path) {
    match error {
        AppendError::Full { place } => assert_eq!(*place, Place::File(path.to_owned())),
        other => panic!("{other:?}"),
    }
}

async fn assert_intact(store: &RedbStore, head: Option<StoredHead>, appends: usize) {
    assert_eq!(store.head().await.unwrap(), head);
    assert_eq!(*store.watch().borrow(), head);
    assert_eq!(operations(store, head).await.len(), appends);
}

fn next(head: Option<StoredHead>) -> Step {
    let seq = head.map_or(0, |it| it.seq);
    Step::after(head, &seq.to_string(), noise(seq, 60 * KIB))
}

/// A file system of a few megabytes, unmounted when the test ends.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn fill(&self, bytes: usize) {
        fs::write(self.path().join("filler"), vec![0; bytes]).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}
