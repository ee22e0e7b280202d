mod append;
mod backend;
mod error;
mod open;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use attestation::Digest;
use redb::{Database, ReadableDatabase, TableDefinition};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::warn;

use self::error::damage;
use super::append::Append;
use super::error::{AppendError, Found, Object, Place, StoreError};
use super::{Store, StoredHead, record};

const HEAD: TableDefinition<(), &[u8]> = TableDefinition::new("head");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const OBJECTS: TableDefinition<[u8; 32], &[u8]> = TableDefinition::new("objects");

/// History in one file, for one Coordinator.
///
/// The file is a redb database, locked for as long as the store is open. Opening it reads all of
/// it and compares every page with its checksum. A file that was put back to an older copy, or
/// deleted, can't be told from a true one here.
pub struct RedbStore {
    shared: Arc<Shared>,
}

impl RedbStore {
    /// Opens the store in `path`, which is made, for the owner alone, if there is none.
    ///
    /// The directory must exist.
    pub async fn open(path: impl Into<PathBuf> + Send) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            path: path.into(),
            database: Mutex::new(None),
            failed_sync: Arc::default(),
            heads: watch::Sender::default(),
        });
        let store = Self { shared };
        store
            .blocking(|shared| shared.with(|_| Ok(())))
            .await
            .map(|()| store)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        match spawn_blocking(move || work(&shared)).await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is going away, and this future with it.
                Err(error) => Err(StoreError::Unavailable {
                    place: self.shared.place(),
                    source: Box::new(error),
                }),
            },
        }
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedbStore").field(&self.shared.path).finish()
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn head(&self) -> Result<Option<StoredHead>, StoreError> {
        self.blocking(Shared::head).await
    }

    async fn get(&self, hash: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let hash = *hash;
        let found = self
            .blocking(move |shared| shared.with(|database| read_object(database, &hash)))
            .await?;
        let Some(bytes) = found else {
            return Ok(None);
        };
        match Digest::of(&bytes) {
            got if got == hash => Ok(Some(bytes)),
            got => Err(StoreError::Corrupt {
                object: Object::Content(hash),
                got: Found::Hash(got),
            }),
        }
    }

    async fn append_cas(
        &self,
        expected: Option<&StoredHead>,
        objects: &[Vec<u8>],
        head: &StoredHead,
    ) -> Result<(), AppendError> {
        let request = Append::new(expected, objects, head)?;
        match self.blocking(move |shared| shared.append(&request)).await? {
            append::Outcome::Appended => Ok(()),
            append::Outcome::Conflict(head) => Err(AppendError::Conflict(head)),
        }
    }

    fn watch(&self) -> watch::Receiver<Option<StoredHead>> {
        self.shared.heads.subscribe()
    }
}

/// What the blocking tasks work on.
struct Shared {
    path: PathBuf,
    /// `None` before the first use, and after a failure that redb says to reopen after.
    database: Mutex<Option<Database>>,
    failed_sync: Arc<AtomicBool>,
    heads: watch::Sender<Option<StoredHead>>,
}

impl Shared {
    /// Lets `work` use the database, which is opened first where that is due.
    ///
    /// redb trusts a page that it has read once: where the file is changed behind its back, or a
    /// page can be read no more, its B-tree code asserts what no longer holds. So a panic of redb
    /// is a damaged file, and like a failed write it costs the handle, not the process.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Failure>) -> Result<T, StoreError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failed_sync.load(Ordering::Acquire) {
            discard(slot.take());
            return Err(StoreError::NotDurable {
                path: self.path.clone(),
            });
        }
        let database = match slot.take() {
            Some(database) => database,
            None => self.open()?,
        };
        match catch_unwind(AssertUnwindSafe(|| work(&database))) {
            Ok(Ok(value)) => {
                *slot = Some(database);
                Ok(value)
            }
            Ok(Err(Failure::Store(error))) => {
                *slot = Some(database);
                Err(error)
            }
            Ok(Err(Failure::Redb(error))) => {
                discard(Some(database));
                Err(self.explain(error))
            }
            Err(panic) => {
                discard(Some(database));
                Err(damage(&self.path, panic.as_ref()))
            }
        }
    }

    /// Reads the head, which nobody else can have moved.
    fn head(&self) -> Result<Option<StoredHead>, StoreError> {
        self.with(|database| {
            let head = read_head(database)?;
            if head == *self.heads.borrow() {
                Ok(head)
            } else {
                Err(Failure::Store(another_head(head)))
            }
        })
    }

    fn open(&self) -> Result<Database, StoreError> {
        let opened = catch_unwind(AssertUnwindSafe(|| {
            open::open(&self.path, &self.failed_sync).and_then(|database| {
                let head = read_head(&database);
                Ok((database, head.map_err(|failure| self.settle(failure))?))
            })
        }));
        let (database, head) = opened.unwrap_or_else(|panic| Err(damage(&self.path, &*panic)))?;
        // A commit that failed may have happened after all, but none can be undone.
        let seq = |head: Option<StoredHead>| head.map_or(0, |head| head.seq);
        if seq(head) < seq(*self.heads.borrow()) {
            return Err(another_head(head));
        }
        self.publish(head);
        Ok(database)
    }

    fn append(&self, request: &Append) -> Result<append::Outcome, StoreError> {
        let outcome = self.with(|database| {
            let outcome = append::append(database, request)?;
            if let append::Outcome::Appended = outcome {
                self.publish(read_head(database)?);
            }
            Ok(outcome)
        });
        let failed = match outcome {
            Ok(append::Outcome::Appended) => {
                // The append is durable, whatever becomes of this.
                if let Err(error) = self.with(append::repeat) {
                    warn!(%error, "the store's second copy of the head was not written");
                }
                return Ok(append::Outcome::Appended);
            }
            Ok(conflict) => return Ok(conflict),
            Err(error) => error,
        };
        // redb leaves open whether a commit that failed has happened; the reopened file tells.
        match self.with(|database| append::is_logged(database, &request.head)) {
            Ok(true) => Ok(append::Outcome::Appended),
            Ok(false) | Err(_) => Err(failed),
        }
    }

    fn publish(&self, head: Option<StoredHead>) {
        self.heads.send_if_modified(|known| {
            let is_new = *known != head;
            *known = head;
            is_new
        });
    }

    fn settle(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Store(error) => error,
            Failure::Redb(error) => self.explain(error),
        }
    }

    fn explain(&self, error: redb::Error) -> StoreError {
        error::explain(&self.path, &self.failed_sync, error)
    }

    fn place(&self) -> Place {
        Place::File(self.path.clone())
    }
}

/// Why work on the database ended.
enum Failure {
    /// What was read is wrong; the database itself is well.
    Store(StoreError),
    Redb(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

/// Closes a database that may not be fit for it: redb's destructors assert, too.
fn discard(database: Option<Database>) {
    if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
        warn!("the store's file was damaged while it was in use");
    }
}

fn another_head(head: Option<StoredHead>) -> StoreError {
    StoreError::Corrupt {
        object: Object::Head,
        got: Found::AnotherHead(head),
    }
}

fn read_head(database: &Database) -> Result<Option<StoredHead>, Failure> {
    let table = database.begin_read()?.open_table(HEAD)?;
    let Some(value) = table.get(())? else {
        return Ok(None);
    };
    record::decode(value.value(), Object::Head)
        .map(Some)
        .map_err(Failure::Store)
}

fn read_object(database: &Database, hash: &Digest) -> Result<Option<Vec<u8>>, Failure> {
    let table = database.begin_read()?.open_table(OBJECTS)?;
    Ok(table.get(hash.0)?.map(|value| value.value().to_vec()))
}
