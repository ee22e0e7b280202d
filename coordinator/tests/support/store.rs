//! A store in memory that can be made to fail, and to lie.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use attestation::Digest;
use coordinator::store::{AppendError, Found, Object, Place, Store, StoreError, StoredHead};
use tokio::sync::watch;

#[derive(Debug, Default)]
pub(crate) struct TestStore {
    contents: Mutex<Contents>,
    heads: watch::Sender<Option<StoredHead>>,
}

/// Everything in a store, to be put back later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    pub(crate) head: Option<StoredHead>,
    pub(crate) log: Vec<StoredHead>,
    pub(crate) objects: HashMap<Digest, Vec<u8>>,
    outage: Outage,
}

/// What does not work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outage {
    #[default]
    None,
    /// Nothing does.
    All,
    /// Appends happen, but nobody is told.
    Answers,
    /// The head is not what was written.
    HeadFlipped,
}

impl TestStore {
    pub(crate) fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap()
    }

    pub(crate) fn fail(&self, outage: Outage) {
        self.contents().outage = outage;
        // Whoever waits for a change looks at once.
        self.heads.send_modify(|_| {});
    }

    /// A copy of all of it.
    pub(crate) fn copy(&self) -> Contents {
        self.contents().clone()
    }

    /// Puts a copy back, or anything else.
    pub(crate) fn replace(&self, contents: Contents) {
        let head = contents.head;
        *self.contents() = contents;
        self.heads.send_replace(head);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Contents)) {
        change(&mut self.contents());
        self.heads.send_modify(|_| {});
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable {
        place: Place::Etcd("test".to_owned()),
        source: "it is made to fail".into(),
    }
}

#[async_trait]
impl Store for TestStore {
    async fn head(&self) -> Result<Option<StoredHead>, StoreError> {
        let contents = self.contents();
        match contents.outage {
            Outage::None | Outage::Answers => Ok(contents.head),
            Outage::All => Err(unavailable()),
            Outage::HeadFlipped => Err(StoreError::Corrupt {
                object: Object::Head,
                got: Found::NotAHead("flipped".to_owned()),
            }),
        }
    }

    async fn get(&self, hash: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let contents = self.contents();
        if contents.outage == Outage::All {
            return Err(unavailable());
        }
        let Some(bytes) = contents.objects.get(hash) else {
            return Ok(None);
        };
        match Digest::of(bytes) {
            got if got == *hash => Ok(Some(bytes.clone())),
            got => Err(StoreError::Corrupt {
                object: Object::Content(*hash),
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
        let mut contents = self.contents();
        if contents.outage == Outage::All {
            return Err(AppendError::Store(unavailable()));
        }
        let answer = if contents.log.contains(head) {
            Ok(())
        } else if contents.head.as_ref() != expected {
            Err(AppendError::Conflict(contents.head))
        } else {
            for object in objects {
                contents.objects.insert(Digest::of(object), object.clone());
            }
            contents.head = Some(*head);
            contents.log.push(*head);
            self.heads.send_replace(Some(*head));
            Ok(())
        };
        if contents.outage == Outage::Answers {
            return Err(AppendError::Store(unavailable()));
        }
        answer
    }

    fn watch(&self) -> watch::Receiver<Option<StoredHead>> {
        self.heads.subscribe()
    }
}
