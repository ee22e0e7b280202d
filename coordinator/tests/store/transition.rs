//! A stand-in for signed transitions: numbered, chained, with one object each.

use attestation::Digest;
use coordinator::store::{AppendError, Store, StoreError, StoredHead};

/// A transition that says which operation it is, what came before, and which object it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) operation: String,
    pub(crate) previous: Option<Digest>,
    pub(crate) payload: Digest,
}

impl Transition {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let previous = self.previous.map_or("none".to_owned(), |it| it.to_string());
        format!("{} {previous} {}", self.operation, self.payload).into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let text = str::from_utf8(bytes).unwrap();
        let mut fields = text.split(' ');
        Self {
            operation: fields.next().unwrap().to_owned(),
            previous: Digest::from_hex(fields.next().unwrap()),
            payload: Digest::from_hex(fields.next().unwrap()).unwrap(),
        }
    }
}

/// An append that can be tried, and tried again.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) expected: Option<StoredHead>,
    pub(crate) objects: Vec<Vec<u8>>,
    pub(crate) head: StoredHead,
}

impl Step {
    pub(crate) fn after(expected: Option<StoredHead>, operation: &str, payload: Vec<u8>) -> Self {
        let transition = Transition {
            operation: operation.to_owned(),
            previous: expected.map(|it| it.transition),
            payload: Digest::of(&payload),
        }
        .encode();
        Self {
            expected,
            head: StoredHead {
                seq: expected.map_or(1, |it| it.seq + 1),
                transition: Digest::of(&transition),
            },
            objects: vec![payload, transition],
        }
    }

    pub(crate) async fn append(&self, store: &dyn Store) -> Result<(), AppendError> {
        store
            .append_cas(self.expected.as_ref(), &self.objects, &self.head)
            .await
    }
}

/// Appends one operation to whatever the head is now; its head.
pub(crate) async fn append(store: &dyn Store, operation: &str, payload: Vec<u8>) -> StoredHead {
    let step = Step::after(store.head().await.unwrap(), operation, payload);
    step.append(store).await.unwrap();
    step.head
}

/// Appends, as a Coordinator does: on a conflict goes on from the head that won; where the store
/// is unavailable, asks for the same again, a few times.
pub(crate) async fn append_persistently(store: &dyn Store, operation: &str) -> StoredHead {
    let mut attempts_left = 10;
    let mut may_retry = |error: StoreError| {
        attempts_left -= 1;
        let is_unavailable = matches!(error, StoreError::Unavailable { .. });
        assert!(is_unavailable && attempts_left > 0, "{error:?}");
    };
    let mut expected = loop {
        match store.head().await {
            Ok(head) => break head,
            Err(error) => may_retry(error),
        }
    };
    loop {
        let step = Step::after(expected, operation, operation.as_bytes().to_vec());
        match step.append(store).await {
            Ok(()) => return step.head,
            Err(AppendError::Conflict(head)) => {
                assert_ne!(head, expected, "a conflict with the head that was expected");
                expected = head;
            }
            Err(AppendError::Store(error)) => may_retry(error),
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// The operations from the first to `head`, once every object was read and every number checked.
pub(crate) async fn operations(store: &dyn Store, head: Option<StoredHead>) -> Vec<String> {
    let mut operations = operations_since(store, head, None).await;
    operations.reverse();
    operations
}

/// The operations from `head` back to `known`, which must be on the way; the latest first.
pub(crate) async fn operations_since(
    store: &dyn Store,
    head: Option<StoredHead>,
    known: Option<StoredHead>,
) -> Vec<String> {
    let mut operations = Vec::new();
    let mut next = head;
    while next != known {
        let head = next.unwrap_or_else(|| panic!("the history doesn't lead to {known:?}"));
        let bytes = store.get(&head.transition).await.unwrap();
        let transition = Transition::decode(&bytes.unwrap());
        let payload = store.get(&transition.payload).await.unwrap();
        assert!(
            payload.is_some(),
            "{} lost its object",
            transition.operation
        );
        operations.push(transition.operation);
        assert_eq!(transition.previous.is_none(), head.seq == 1);
        next = transition.previous.map(|transition| StoredHead {
            seq: head.seq - 1,
            transition,
        });
    }
    operations
}

/// `length` bytes that `seed` decides.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    std::iter::repeat_with(|| random(&mut state).to_le_bytes())
        .flatten()
        .take(length)
        .collect()
}

/// The next number of a reproducible sequence (`SplitMix64`).
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
