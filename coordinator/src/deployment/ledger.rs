//! History as the Coordinator acts on it: read from the untrusted store, and verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use attestation::Digest;
use history::{
    AuthorisationError, Chain, ChainError, Head, Kind, Rollback, SignedTransition, Transition,
    TransitionKey, authorise, check_not_older, update_statement,
};
use manifest::{Manifest, ManifestErrors};
use seed::SharesDocument;
use thiserror::Error;

use super::mesh_view::{Generation, MeshView};
use super::objects::{ObjectError, PkiRecord};
use super::stored::read_entries;
use crate::refusal::RefusalCode;
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
    ///
    /// Whoever makes up a seed can sign a history with it, so that it also takes the consent of the
    /// owners to each of its manifests, and to the first that of `founders`.
    pub async fn read(
        store: &dyn Store,
        key: &TransitionKey,
        founders: Founders<'_>,
    ) -> Result<Option<Self>, LedgerError> {
        let Some(head) = store.head().await? else {
            return Ok(None);
        };
        let mut ledger: Option<Self> = None;
        for (head, entry) in read_entries(store, &head, None).await? {
            let transition = entry.transition;
            ledger = Some(match ledger {
                None => {
                    let parts = Parts::read(store, &transition, None).await?;
                    let first = Self::first(transition, key, head, parts)?;
                    first.latest().map_or(Ok(()), |it| founders.check(it))?;
                    first
                }
                Some(before) => before.read_next(store, transition, head).await?,
            });
        }
        Ok(ledger)
    }

    /// The same history, with what the store has beyond it. Refuses where the store does not go on
    /// from here: it was rolled back, or rewritten.
    pub async fn follow(&self, store: &dyn Store, head: &StoredHead) -> Result<Self, LedgerError> {
        let mut entries = read_entries(store, head, Some(&self.head))
            .await?
            .into_iter()
            .peekable();
        if let Some((_, entry)) = entries.next_if(|(head, _)| head.seq <= self.head.seq) {
            let got = entry.transition.transition.head();
            self.check_offered(&got)?;
            return Err(LedgerError::Order {
                want: self.head.seq.saturating_add(1),
                got: got.seq,
            });
        }
        let mut ledger = self.clone();
        for (head, entry) in entries {
            ledger = ledger.read_next(store, entry.transition, head).await?;
        }
        Ok(ledger)
    }

    async fn read_next(
        &self,
        store: &dyn Store,
        transition: SignedTransition,
        head: StoredHead,
    ) -> Result<Self, LedgerError> {
        let parts = Parts::read(store, &transition, Some(self)).await?;
        let next = self.after(transition, head, parts)?;
        next.latest().map_or(Ok(()), |it| {
            check_consent(
                it,
                self.manifest.workload_owners(),
                self.manifest.update_quorum(),
            )
        })?;
        Ok(next)
    }

    /// Refuses the end of a history that is not at least this one.
    fn check_offered(&self, offered: &Head) -> Result<(), LedgerError> {
        Ok(check_not_older(&self.chain.head(), offered)?)
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
    /// Reads them, but for those that were in force before.
    pub(super) async fn read(
        store: &dyn Store,
        transition: &SignedTransition,
        before: Option<&Ledger>,
    ) -> Result<Self, LedgerError> {
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
        let manifest = match before.map(|it| &it.manifest) {
            Some(before) if before.hash() == transition.manifest => Arc::clone(before),
            _ => {
                let bytes = object("manifest", &transition.manifest).await?;
                let manifest = Manifest::parse(&bytes)
                    .map_err(|errors| LedgerError::Manifest { seq, errors })?;
                Arc::new(manifest)
            }
        };
        let pki = {
            let bytes = object("PKI record", &transition.pki).await?;
            let record = PkiRecord::decode(&bytes).map_err(|source| LedgerError::Object {
                seq,
                what: "PKI record",
                source,
            })?;
            Arc::new(record)
        };
        let shares = match before.map(|it| &it.shares) {
            Some(before) if before.hash() == transition.seed_shares => Arc::clone(before),
            _ => {
                let bytes = object("seed shares", &transition.seed_shares).await?;
                let shares = SharesDocument::parse(&bytes).map_err(|_| LedgerError::Object {
                    seq,
                    what: "seed shares",
                    source: ObjectError::Encoding,
                })?;
                Arc::new(shares)
            }
        };
        Ok(Self {
            manifest,
            pki,
            shares,
        })
    }
}

/// Whose consent the first manifest takes; nobody's where there are none.
#[derive(Clone, Copy, Debug)]
pub struct Founders<'a> {
    /// SHA-256 of the key of each.
    pub owners: &'a [Digest],
    /// How many of them.
    pub quorum: usize,
}

impl Founders<'_> {
    fn check(self, first: &SignedTransition) -> Result<(), LedgerError> {
        if self.owners.is_empty() {
            return Ok(());
        }
        check_consent(first, self.owners, self.quorum)
    }
}

/// Refuses a manifest that the owners did not agree to.
fn check_consent(
    transition: &SignedTransition,
    owners: &[Digest],
    quorum: usize,
) -> Result<(), LedgerError> {
    let Transition {
        seq,
        previous,
        kind,
        manifest,
        authorisations,
        ..
    } = &transition.transition;
    if *kind != Kind::Manifest {
        return Ok(());
    }
    let statement = update_statement(manifest, previous);
    authorise(owners, quorum, &statement, authorisations)
        .map_err(|source| LedgerError::NotAuthorised { seq: *seq, source })
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
    /// There was a history, and there is none.
    #[error("the store has lost its whole history, of {seq} transitions")]
    Lost {
        /// How many there were.
        seq: u64,
    },
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
    /// The owners did not agree to a manifest: a Coordinator would not have taken it.
    #[error("the manifest of transition {seq} is not authorised: {source}")]
    NotAuthorised {
        /// Which transition.
        seq: u64,
        /// What is wrong with the signatures.
        source: AuthorisationError,
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

impl LedgerError {
    /// What it is to a caller.
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::Store(error) => RefusalCode::of_store(error),
            _ => RefusalCode::Store,
        }
    }

    /// Whether the store just did not answer, and nothing in it is known to be wrong.
    pub fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Store(error) if !matches!(error, StoreError::Corrupt { .. }))
    }
}
