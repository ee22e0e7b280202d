use std::collections::BTreeMap;

use attestation::Digest;

use super::StoredHead;
use super::error::{AppendError, Misuse, StoreError};

/// The largest object that a store takes, in bytes.
///
/// An etcd member refuses requests of more than 1.5 MiB unless it is told otherwise
/// (`--max-request-bytes`); this leaves room for the head.
pub const MAX_OBJECT_BYTES: usize = 1 << 20;

/// An append that a store can be asked for.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) expected: Option<StoredHead>,
    /// Each once, by its content address.
    pub(super) objects: BTreeMap<Digest, Vec<u8>>,
    pub(super) head: StoredHead,
}

impl Append {
    pub(super) fn new(
        expected: Option<&StoredHead>,
        objects: &[Vec<u8>],
        head: &StoredHead,
    ) -> Result<Self, AppendError> {
        let due = expected.map_or(Some(1), |expected| expected.seq.checked_add(1));
        if due != Some(head.seq) {
            return Err(AppendError::Refused(Misuse::NotNext {
                expected: expected.copied(),
                head: *head,
            }));
        }
        if let Some(large) = objects.iter().find(|it| it.len() > MAX_OBJECT_BYTES) {
            return Err(AppendError::Store(StoreError::TooLarge {
                object: Digest::of(large),
                size: large.len(),
                limit: MAX_OBJECT_BYTES,
            }));
        }
        let objects: BTreeMap<_, _> = objects
            .iter()
            .map(|it| (Digest::of(it), it.clone()))
            .collect();
        if !objects.contains_key(&head.transition) {
            return Err(AppendError::Refused(Misuse::NoTransition { head: *head }));
        }
        Ok(Self {
            expected: expected.copied(),
            objects,
            head: *head,
        })
    }
}
