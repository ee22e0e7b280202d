mod error;
mod follow;
mod members;
mod options;

use std::fmt;
use std::mem;
use std::sync::Arc;

use async_trait::async_trait;
use attestation::Digest;
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::members::Members;
use super::append::{Append, MAX_OBJECT_BYTES};
use super::error::{AppendError, Found, Object, StoreError};
use super::{Store, StoredHead, record};

pub use options::{ClientCertificate, EtcdOptions, EtcdOptionsError, Login, PemFile};

/// History in an etcd cluster, for any number of Coordinators.
///
/// Under the prefix lie `head`, `log/<seq>` (20 digits; the head of that number) and
/// `objects/<hash>`. Reads are linearizable: without a quorum there is no answer, rather than an
/// old one. One endpoint is used until it fails; then the next is asked.
pub struct EtcdStore {
    members: Arc<Members>,
    heads: watch::Receiver<Option<StoredHead>>,
    follower: AbortHandle,
}

impl EtcdStore {
    /// Connects and reads the head, which shows whether the cluster is there and lets us in.
    ///
    /// Must be called within a tokio runtime, where it leaves a task that follows the head until
    /// the store is dropped.
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        let members = Arc::new(Members::new(options)?);
        let start = members.head().await?;
        let (sender, heads) = watch::channel(start.head);
        let follower = tokio::spawn(follow::follow(Arc::clone(&members), sender)).abort_handle();
        Ok(Self {
            members,
            heads,
            follower,
        })
    }

    /// The compare-and-swap itself, in one transaction with whatever objects fit.
    async fn swap(&self, request: &Append, objects: Vec<TxnOp>) -> Result<bool, StoreError> {
        let keys = self.members.keys();
        let compare = match &request.expected {
            Some(expected) => {
                Compare::value(keys.head(), CompareOp::Equal, record::encode(expected))
            }
            None => Compare::version(keys.head(), CompareOp::Equal, 0),
        };
        let head = record::encode(&request.head);
        let mut operations = objects;
        operations.push(TxnOp::put(keys.log(request.head.seq), head.clone(), None));
        operations.push(TxnOp::put(keys.head(), head, None));
        let transaction = Txn::new().when([compare]).and_then(operations);
        self.members
            .call(|mut client| {
                let transaction = transaction.clone();
                async move { Ok(client.txn(transaction).await?.succeeded()) }
            })
            .await
    }

    async fn put(&self, objects: Vec<TxnOp>) -> Result<(), StoreError> {
        let transaction = Txn::new().and_then(objects);
        self.members
            .call(|mut client| {
                let transaction = transaction.clone();
                async move { client.txn(transaction).await.map(drop) }
            })
            .await
    }

    /// What became of an append that etcd did not carry out just now: where the answer to an
    /// earlier attempt was lost, it has happened.
    async fn settle(&self, request: &Append) -> Result<(), AppendError> {
        if self.is_logged(&request.head).await? {
            Ok(())
        } else {
            Err(AppendError::Conflict(self.head().await?))
        }
    }

    /// Whether this head is part of the history.
    async fn is_logged(&self, head: &StoredHead) -> Result<bool, StoreError> {
        let object = Object::Log(head.seq);
        let key = self.members.keys().log(head.seq);
        match self.members.read(key, &object).await?.value {
            Some(bytes) => Ok(record::decode(&bytes, object)? == *head),
            None => Ok(false),
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EtcdStore").field(&self.members).finish()
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn head(&self) -> Result<Option<StoredHead>, StoreError> {
        Ok(self.members.head().await?.head)
    }

    async fn get(&self, hash: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let object = Object::Content(*hash);
        let key = self.members.keys().object(hash);
        let Some(bytes) = self.members.read(key, &object).await?.value else {
            return Ok(None);
        };
        let got = match Digest::of(&bytes) {
            _ if bytes.len() > MAX_OBJECT_BYTES => Found::TooLong,
            got if got == *hash => return Ok(Some(bytes)),
            got => Found::Hash(got),
        };
        Err(StoreError::Corrupt { object, got })
    }

    async fn append_cas(
        &self,
        expected: Option<&StoredHead>,
        objects: &[Vec<u8>],
        head: &StoredHead,
    ) -> Result<(), AppendError> {
        let request = Append::new(expected, objects, head)?;
        let mut batches = batches(self.members.keys(), &request);
        let last = batches.pop().unwrap_or_default();
        if !batches.is_empty() {
            if self.head().await? != request.expected {
                return self.settle(&request).await;
            }
            // What doesn't fit into one request goes first. An object that nothing refers to
            // yet does no harm, and putting it twice changes nothing.
            for batch in batches {
                self.put(batch).await?;
            }
        }
        match self.swap(&request, last).await {
            Ok(true) => Ok(()),
            Ok(false) => self.settle(&request).await,
            // The request at which etcd finds its quota used up is refused, and carried out.
            Err(StoreError::Full { .. }) if self.is_logged(&request.head).await? => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn watch(&self) -> watch::Receiver<Option<StoredHead>> {
        self.heads.clone()
    }
}

/// The puts of all objects, in requests that etcd takes; the transition is in the last.
fn batches(keys: &Keys, request: &Append) -> Vec<Vec<TxnOp>> {
    let transition = request.head.transition;
    let others = request
        .objects
        .iter()
        .filter(|(hash, _)| **hash != transition);
    let ordered = others.chain(request.objects.get_key_value(&transition));
    let mut batches = Vec::new();
    let (mut batch, mut size) = (Vec::new(), 0);
    for (hash, bytes) in ordered {
        if !batch.is_empty() && (size + bytes.len() > MAX_OBJECT_BYTES || batch.len() == MAX_PUTS) {
            batches.push(mem::take(&mut batch));
            size = 0;
        }
        size += bytes.len();
        batch.push(TxnOp::put(keys.object(hash), bytes.clone(), None));
    }
    batches.push(batch);
    batches
}

/// Where things are in etcd.
#[derive(Clone, Debug)]
struct Keys {
    prefix: String,
}

impl Keys {
    fn head(&self) -> String {
        format!("{}/head", self.prefix)
    }

    /// Of fixed width, so that etcd lists the log in order.
    fn log(&self, seq: u64) -> String {
        format!("{}/log/{seq:020}", self.prefix)
    }

    fn object(&self, hash: &Digest) -> String {
        format!("{}/objects/{hash}", self.prefix)
    }
}

/// Fewer than the 128 operations that etcd's `--max-txn-ops` allows by default.
const MAX_PUTS: usize = 100;
