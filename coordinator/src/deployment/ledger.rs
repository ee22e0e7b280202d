//! History as the Coordinator acts on it: read from the untrusted store, and verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use attestation::Digest;
use history::{Chain, ChainError, Head, Rollback, SignedTransition, TransitionKey};
use manifest::{Manifest, ManifestErrors};
use seed::SharesDocument;
use thiserror::Error;

use super::mesh_view::{Generation, MeshView};
use super::objects::{Entry, ObjectError, PkiRecord};
use crate::store::{Store, StoreError, StoredHead};

/// Every transition up to the head, with what the head needs.
#[derive(Clone, Debug)]
pub struct Ledger {
    chain: Chain,
    head: StoredHead,
    view: MeshView,
    manifest: Arc<Manifest>,
    shares: Arc<SharesDocument>,
    pki: BTreeMap<Generation, Arc<PkiRecord>>,
}

impl Ledger {
    /// Begins with the first transition.
    pub fn first(
        transition: SignedTransition,
        key: &TransitionKey,
        head: StoredHead,
        parts: Parts,
    ) -> Result<Self, LedgerError> {
        let seq = transition.transition.seq;
        Ok(Self {
            chain: Chain::verify(vec![transition], key)?,
            head,
            view: MeshView::first(seq),
            manifest: parts.manifest,
            shares: parts.shares,
            pki: BTreeMap::from([(seq, parts.pki)]),
        })
    }

    /// With one more transition.
    pub fn after(
        &self,
        transition: SignedTransition,
        head: StoredHead,
        parts: Parts,
    ) -> Result<Self, LedgerError> {
        let (seq, kind) = (transition.transition.seq, transition.transition.kind);
        let mut next = self.clone();
        next.chain.push(transition)?;
        next.head = head;
        next.view = self.view.after(seq, kind, parts.manifest.rotation().mode);
        next.manifest = parts.manifest;
        next.shares = parts.shares;
        next.pki.insert(next.view.newest(), parts.pki);
        let trusted = next.view.trusted().to_vec();
        next.pki
            .retain(|generation, _| trusted.contains(generation));
        Ok(next)
    }

    /// Reads and verifies all of the store's history; `None` where there is none.
    pub async fn read(store: &dyn Store, key: &TransitionKey) -> Result<Option<Self>, LedgerError> {
        let Some(head) = store.head().await? else {
            return Ok(None);
        };
        let entries = read_entries(store, &head).await?;
        let mut ledger: Option<Self> = None;
        for (head, entry) in entries {
            let transition = entry.transition;
            let parts = Parts::read(store, &transition).await?;
            ledger = Some(match ledger {
                None => Self::first(transition, key, head, parts)?,
                Some(before) => before.after(transition, head, parts)?,
            });
        }
        Ok(ledger)
    }

    /// Refuses a ledger that does not go on from `older`: the store was rolled back, or rewritten.
    pub fn check_extends(&self, older: &Self) -> Result<(), LedgerError> {
        self.check_contains(&older.chain.head())
    }

    /// Refuses if history is older than `known`, or went another way.
    pub fn check_contains(&self, known: &Head) -> Result<(), LedgerError> {
        Ok(self.chain.check_extends(known)?)
    }

    /// Every transition.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The latest transition.
    pub fn latest(&self) -> Option<&SignedTransition> {
        self.chain.iter().last()
    }

    /// Where the store's head is to be.
    pub fn stored_head(&self) -> &StoredHead {
        &self.head
    }

    /// Which mesh CAs are trusted.
    pub fn view(&self) -> &MeshView {
        &self.view
    }

    /// The manifest in force.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The encrypted shares of the seed.
    pub fn shares(&self) -> &Arc<SharesDocument> {
        &self.shares
    }

    /// The certificates of each trusted generation.
    pub fn pki(&self) -> &BTreeMap<Generation, Arc<PkiRecord>> {
        &self.pki
    }
}

/// What a transition refers to.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The manifest in force from then on.
    pub manifest: Arc<Manifest>,
    /// The certificates of the newest generation.
    pub pki: Arc<PkiRecord>,
    /// The shares of the seed.
    pub shares: Arc<SharesDocument>,
}

impl Parts {
    async fn read(store: &dyn Store, transition: &SignedTransition) -> Result<Self, LedgerError> {
        let transition = &transition.transition;
        let seq = transition.seq;
        let object = async |what: &'static str, digest: &Digest| {
            let bytes = store.get(digest).await?;
            bytes.ok_or(LedgerError::Missing {
                seq,
                what,
                digest: *digest,
            })
        };
        let manifest = object("manifest", &transition.manifest).await?;
        let pki = object("PKI record", &transition.pki).await?;
        let shares = object("seed shares", &transition.seed_shares).await?;
        let unreadable = |what| move |source| LedgerError::Object { seq, what, source };
        Ok(Self {
            manifest: Arc::new(
                Manifest::parse(&manifest)
                    .map_err(|errors| LedgerError::Manifest { seq, errors })?,
            ),
            pki: Arc::new(PkiRecord::decode(&pki).map_err(unreadable("PKI record"))?),
            shares: Arc::new(
                SharesDocument::parse(&shares).map_err(|_| LedgerError::Object {
                    seq,
                    what: "seed shares",
                    source: ObjectError::Encoding,
                })?,
            ),
        })
    }
}

/// Every entry up to `head`, the oldest first. Verifies content addresses and order, no signature.
pub async fn read_entries(
    store: &dyn Store,
    head: &StoredHead,
) -> Result<Vec<(StoredHead, Entry)>, LedgerError> {
    let mut entries = Vec::new();
    let mut seq = head.seq;
    let mut next = Some(head.transition);
    while let Some(digest) = next {
        let bytes = store.get(&digest).await?.ok_or(LedgerError::Missing {
            seq,
            what: "transition",
            digest,
        })?;
        let entry = Entry::decode(&bytes).map_err(|source| LedgerError::Object {
            seq,
            what: "transition",
            source,
        })?;
        let got = entry.transition.transition.seq;
        if got != seq || (seq == 1) != entry.previous.is_none() {
            return Err(LedgerError::Order { want: seq, got });
        }
        next = entry.previous;
        let head = StoredHead {
            seq,
            transition: digest,
        };
        entries.push((head, entry));
        seq = seq.saturating_sub(1);
    }
    entries.reverse();
    Ok(entries)
}

/// What a Coordinator without its seed can know: nothing in it is verified.
#[derive(Clone, Debug)]
pub struct Unverified {
    /// The store's head.
    pub head: Head,
    /// The manifest that is said to be in force.
    pub manifest: Arc<Manifest>,
    /// The shares that are to be gathered.
    pub shares: Arc<SharesDocument>,
}

impl Unverified {
    /// Reads the head.
    pub async fn read(store: &dyn Store, head: &StoredHead) -> Result<Self, LedgerError> {
        let bytes = store.get(&head.transition).await?;
        let bytes = bytes.ok_or(LedgerError::Missing {
            seq: head.seq,
            what: "transition",
            digest: head.transition,
        })?;
        let entry = Entry::decode(&bytes).map_err(|source| LedgerError::Object {
            seq: head.seq,
            what: "transition",
            source,
        })?;
        let Parts {
            manifest, shares, ..
        } = Parts::read(store, &entry.transition).await?;
        let transition = entry.transition.transition;
        Ok(Self {
            head: transition.head(),
            manifest,
            shares,
        })
    }
}

/// Why history can't be acted on.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The store gave nothing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A transition does not follow from the one before, or is not signed by this deployment's key.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Something that a transition needs is not there.
    #[error("the store has lost the {what} of transition {seq} ({digest}); restore it from a copy")]
    Missing {
        /// Which transition.
        seq: u64,
        /// What it needs.
        what: &'static str,
        /// Under which address.
        digest: Digest,
    },
    /// Something that a transition needs is of the wrong kind.
    #[error("the store gives something else for the {what} of transition {seq}: {source}")]
    Object {
        /// Which transition.
        seq: u64,
        /// What it needs.
        what: &'static str,
        /// What is wrong with it.
        source: ObjectError,
    },
    /// A manifest that was set is not valid any more.
    #[error("the manifest of transition {seq} is not valid:\n{errors}")]
    Manifest {
        /// Which transition.
        seq: u64,
        /// What is wrong with it.
        errors: ManifestErrors,
    },
    /// The entries are not in order.
    #[error("the store gives transition {got} in the place of {want}: reordered")]
    Order {
        /// The sequence number that was due.
        want: u64,
        /// The one that came.
        got: u64,
    },
    /// The store forgot transitions, or tells another history.
    #[error("the store was rolled back or rewritten: {0}")]
    Rollback(#[from] Rollback),
}
