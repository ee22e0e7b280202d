//! Where history lives: content-addressed objects, and one head that moves by compare-and-swap.
//!
//! A store is trusted to be there, and for nothing else. Every object is hashed when it is read,
//! and a head that was damaged is refused; but that a head is signed, follows from the one before
//! and is not older than one already seen, only the reader can know. A store that was put back to
//! an earlier copy of itself, or that answers for another deployment, looks like any other here.

mod append;
mod error;
mod etcd;
mod record;
mod redb;

use std::fmt;

use async_trait::async_trait;
use attestation::Digest;
use tokio::sync::watch;

pub use append::MAX_OBJECT_BYTES;
pub use error::{AppendError, Denial, Found, Misuse, Object, Place, StoreError};
pub use etcd::{ClientCertificate, EtcdOptions, EtcdOptionsError, EtcdStore, Login, PemFile};
pub use redb::RedbStore;

/// The end of history as a store names it: which transition is the latest, by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoredHead {
    /// How many transitions there are. The first is number 1.
    pub seq: u64,
    /// The content address of the latest transition.
    pub transition: Digest,
}

impl fmt::Display for StoredHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transition {} ({})", self.seq, self.transition)
    }
}

/// Where history lives. Untrusted: every reader verifies what it gets.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The latest head; `None` in a store that nothing was appended to.
    ///
    /// Sees every append that was acknowledged before the call, by whichever Coordinator.
    async fn head(&self) -> Result<Option<StoredHead>, StoreError>;

    /// The object with this content address; `None` if there is none.
    ///
    /// What it returns has this SHA-256 hash; anything else is [`StoreError::Corrupt`].
    async fn get(&self, hash: &Digest) -> Result<Option<Vec<u8>>, StoreError>;

    /// Adds `objects`, and moves the head from `expected` to `head`: both or neither.
    ///
    /// `head` is number one, or follows `expected` by one, and `objects` has its transition.
    /// When this returns the append is durable and [`get`](Self::get) finds every object.
    ///
    /// On an error other than [`AppendError::Conflict`] and [`AppendError::Refused`] the append
    /// may still have happened, or may happen yet: a request that timed out can be under way.
    /// Ask again with the same arguments to know. A head that is in the history already is
    /// acknowledged again, also when others follow it by then, and never applied twice.
    async fn append_cas(
        &self,
        expected: Option<&StoredHead>,
        objects: &[Vec<u8>],
        head: &StoredHead,
    ) -> Result<(), AppendError>;

    /// Follows the heads that anyone appends, and reconnects by itself.
    ///
    /// May skip heads that were followed by others at once, and may lag behind
    /// [`head`](Self::head). Keeps its last value while the store can't be reached.
    fn watch(&self) -> watch::Receiver<Option<StoredHead>>;
}
