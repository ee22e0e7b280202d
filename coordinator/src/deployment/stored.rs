//! What the store says, before anything of it is verified.

use std::sync::Arc;

use history::Head;
use manifest::Manifest;
use seed::SharesDocument;

use super::ledger::{LedgerError, Parts};
use super::objects::Entry;
use crate::store::{Store, StoredHead};

/// Every entry up to `head`, the oldest first; beyond `known` only, where the store goes on from
/// there, or else from the entry in `known`'s place on. Verifies content addresses and order, no
/// signature.
pub async fn read_entries(
    store: &dyn Store,
    head: &StoredHead,
    known: Option<&StoredHead>,
) -> Result<Vec<(StoredHead, Entry)>, LedgerError> {
    let mut entries = Vec::new();
    let mut next = Some(*head);
    while let Some(head) = next.filter(|it| Some(it) != known) {
        let entry = read_entry(store, &head).await?;
        next = entry.previous.map(|transition| StoredHead {
            seq: head.seq.saturating_sub(1),
            transition,
        });
        entries.push((head, entry));
        if known.is_some_and(|known| head.seq <= known.seq) {
            break;
        }
    }
    entries.reverse();
    Ok(entries)
}

async fn read_entry(store: &dyn Store, head: &StoredHead) -> Result<Entry, LedgerError> {
    let StoredHead { seq, transition } = *head;
    let bytes = store.get(&transition).await?;
    let bytes = bytes.ok_or(LedgerError::Missing {
        seq,
        what: "transition",
        digest: transition,
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
    Ok(entry)
}

/// What a Coordinator without its seed can know: nothing in it is verified.
#[derive(Clone, Debug)]
pub struct Unverified {
    /// Where the store's head is.
    pub stored_head: StoredHead,
    /// The same as owners and agents remember it.
    pub head: Head,
    /// The manifest that is said to be in force.
    pub manifest: Arc<Manifest>,
    /// The shares that are to be gathered.
    pub shares: Arc<SharesDocument>,
}

impl Unverified {
    /// Reads the head.
    pub async fn read(store: &dyn Store, head: &StoredHead) -> Result<Self, LedgerError> {
        let entry = read_entry(store, head).await?;
        let Parts {
            manifest, shares, ..
        } = Parts::read(store, &entry.transition, None).await?;
        Ok(Self {
            stored_head: *head,
            head: entry.transition.transition.head(),
            manifest,
            shares,
        })
    }
}
