//! The file is damaged: whatever was flipped or cut off, what is read is right or an error.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod store;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use coordinator::store::{AppendError, Found, Object, RedbStore, Store, StoreError, StoredHead};
use store::transition::{Step, append, noise, operations, random};

/// Where the header's primary slot, its flags and the two commit slots are.
const HEADER: usize = 320;
const PAGE: usize = 4096;

#[tokio::test]
async fn a_flipped_bit_of_a_closed_file_is_found_or_harmless() {
    let original = Original::closed().await;
    flip_bits(&original, 1).await;
}

#[tokio::test]
async fn a_flipped_bit_of_a_file_after_a_crash_is_found_or_harmless() {
    let original = Original::crashed().await;
    flip_bits(&original, 2).await;
}

#[tokio::test]
async fn a_page_of_zeros_is_found_or_harmless() {
    let original = Original::closed().await;
    let mut found = 0;
    for page in original.used_pages() {
        let mut bytes = original.bytes.clone();
        bytes[page * PAGE..(page + 1) * PAGE].fill(0);
        found += usize::from(original.judge(&bytes).await == Verdict::Found);
    }
    assert!(found > 10, "{found}");
}

#[tokio::test]
async fn a_shortened_file_is_found_or_harmless() {
    let original = Original::closed().await;
    let mut state = 3;
    let length = original.bytes.len();
    let mut lengths = vec![
        0,
        1,
        8,
        9,
        63,
        64,
        319,
        320,
        PAGE - 1,
        PAGE,
        PAGE + 1,
        length - 1,
    ];
    lengths.extend((1..length / PAGE).map(|pages| pages * PAGE));
    lengths.extend((0..50).map(|_| below(&mut state, length)));
    for length in lengths {
        let verdict = original.judge(&original.bytes[..length]).await;
        assert_eq!(verdict, Verdict::Found, "cut off at {length}");
    }
}

#[tokio::test]
async fn a_lengthened_file_is_found_or_harmless() {
    let original = Original::closed().await;
    for added in [1, PAGE, 10 * PAGE + 1] {
        let mut bytes = original.bytes.clone();
        bytes.extend(noise(4, added));
        original.judge(&bytes).await;
    }
}

#[tokio::test]
async fn what_is_no_store_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    for wrong in [noise(5, 3 * PAGE), b"notes".to_vec(), vec![0; 2 * PAGE]] {
        fs::write(&path, &wrong).unwrap();
        assert_eq!(damaged(&RedbStore::open(&path).await.unwrap_err()), path);
        assert_eq!(fs::read(&path).unwrap(), wrong);
    }
}

#[tokio::test]
async fn an_empty_file_is_no_new_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    File::create(&path).unwrap();
    match RedbStore::open(&path).await {
        Err(StoreError::Corrupt { object, got }) => {
            assert_eq!((object, got), (Object::File(path), Found::Empty));
        }
        other => panic!("{other:?}"),
    }
}

/// redb keeps what it has read, so the damage is met where a page is read for the first time.
#[tokio::test]
async fn damage_to_a_file_in_use_is_found_or_harmless() {
    let original = Original::closed().await;
    let mut state = 6;
    let used: Vec<_> = original.used_pages().collect();
    for _ in 0..60 {
        let path = original.write(&original.bytes);
        let store = RedbStore::open(&path).await.unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for page in &used {
            let at = page * PAGE + below(&mut state, PAGE);
            file.write_all_at(&noise(random(&mut state), 8), at as u64)
                .unwrap();
        }
        match store.head().await {
            Ok(head) => assert_eq!(head, Some(original.head)),
            Err(error) => drop(damaged_object(&error)),
        }
        for step in &original.steps {
            match store.get(&step.head.transition).await {
                Ok(object) => {
                    assert!(object.is_none_or(|it| step.objects.contains(&it)));
                }
                Err(error) => drop(damaged_object(&error)),
            }
        }
        let next = Step::after(Some(original.head), "next", noise(7, 9000));
        match next.append(&store).await {
            Ok(()) => {}
            Err(AppendError::Conflict(head)) => assert_ne!(head, Some(next.head)),
            Err(AppendError::Store(error)) => drop(damaged_object(&error)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_file_that_goes_back_while_it_is_in_use_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let store = RedbStore::open(&path).await.unwrap();
    append(&store, "a", vec![]).await;
    let older = fs::read(&path).unwrap();
    let head = append(&store, "b", vec![]).await;
    fs::write(&path, &older).unwrap();

    match store.head().await {
        Ok(read) => assert_eq!(read, Some(head)),
        Err(error) => drop(damaged_object(&error)),
    }
}

async fn flip_bits(original: &Original, seed: u64) {
    let mut state = seed;
    let mut bits: Vec<_> = (0..HEADER)
        .map(|byte| byte * 8 + below(&mut state, 8))
        .collect();
    // The flags: which slot is the newest, whether the file was closed, how it was committed.
    bits.extend(72..80);
    for page in original.used_pages() {
        bits.extend((0..4).map(|_| (page * PAGE + below(&mut state, PAGE)) * 8));
        // Where the page's own header is.
        bits.extend((0..4).map(|_| page * PAGE * 8 + below(&mut state, 256)));
    }
    let mut found = 0;
    for bit in &bits {
        let mut bytes = original.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        found += usize::from(original.judge(&bytes).await == Verdict::Found);
    }
    println!("{} bits flipped, {found} found", bits.len());
    assert!(found > bits.len() / 4, "{found} of {}", bits.len());
}

/// A good file, and what is in it.
struct Original {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
    steps: Vec<Step>,
    head: StoredHead,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Found,
    Harmless,
}

impl Original {
    async fn closed() -> Self {
        let (dir, store, steps) = Self::fill().await;
        drop(store);
        Self::read(dir, steps)
    }

    /// As a kill leaves it.
    async fn crashed() -> Self {
        let (dir, store, steps) = Self::fill().await;
        let original = Self::read(dir, steps);
        drop(store);
        original
    }

    async fn fill() -> (tempfile::TempDir, RedbStore, Vec<Step>) {
        // In memory where there is such a directory; nothing here is about the disk.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        let store = RedbStore::open(dir.path().join("original")).await.unwrap();
        let mut steps = Vec::new();
        let mut expected = None;
        for n in 0..6_u64 {
            let length = usize::try_from(n).unwrap() * 3000;
            let step = Step::after(expected, &n.to_string(), noise(n, length));
            step.append(&store).await.unwrap();
            expected = Some(step.head);
            steps.push(step);
        }
        (dir, store, steps)
    }

    fn read(dir: tempfile::TempDir, steps: Vec<Step>) -> Self {
        Self {
            bytes: fs::read(dir.path().join("original")).unwrap(),
            head: steps.last().unwrap().head,
            steps,
            dir,
        }
    }

    fn used_pages(&self) -> impl Iterator<Item = usize> + '_ {
        let pages = self.bytes.chunks_exact(PAGE).enumerate();
        pages.filter_map(|(page, bytes)| bytes.iter().any(|it| *it != 0).then_some(page))
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("damaged");
        // A new file, as the store of the last one may not have let go of it yet.
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Opens and reads everything: all of it is as it was, or an error says that it is not.
    async fn judge(&self, bytes: &[u8]) -> Verdict {
        let path = self.write(bytes);
        let store = match RedbStore::open(&path).await {
            Ok(store) => store,
            Err(error) => {
                damaged_object(&error);
                return Verdict::Found;
            }
        };
        assert_eq!(store.head().await.unwrap(), Some(self.head));
        let operations = operations(&store, Some(self.head)).await;
        assert_eq!(operations.len(), self.steps.len());
        let next = Step::after(Some(self.head), "next", noise(8, 9000));
        next.append(&store).await.unwrap();
        Verdict::Harmless
    }
}

fn damaged_object(error: &StoreError) -> Object {
    match error {
        StoreError::Corrupt { object, .. } => object.clone(),
        other => panic!("{other:?}"),
    }
}

fn damaged(error: &StoreError) -> &Path {
    match error {
        StoreError::Corrupt {
            object: Object::File(path),
            ..
        } => path,
        other => panic!("{other:?}"),
    }
}

fn below(state: &mut u64, limit: usize) -> usize {
    usize::try_from(random(state)).unwrap() % limit
}
