use std::slice;

use attestation::Digest;
use thiserror::Error;

use crate::head::{Head, Rollback, check_not_older};
use crate::signing::{SignedTransition, TransitionKey};
use crate::transition::{Kind, Transition};

/// A history from its first transition on, verified: complete, in order, every signature right.
///
/// That a manifest was authorised by the owners that the manifest before it names is not part of
/// it, as that takes the manifests: see [`authorise`](crate::authorise).
#[derive(Clone, Debug)]
pub struct Chain {
    key: TransitionKey,
    transitions: Vec<SignedTransition>,
    head: Head,
}

impl Chain {
    /// Verifies a whole history, of at least one transition.
    pub fn verify(
        transitions: Vec<SignedTransition>,
        key: &TransitionKey,
    ) -> Result<Self, ChainError> {
        let mut last: Option<(Head, &Transition)> = None;
        for signed in &transitions {
            let head = check_next(last, signed, key)?;
            last = Some((head, &signed.transition));
        }
        let Some((head, _)) = last else {
            return Err(ChainError {
                seq: 1,
                why: ChainFault::Empty,
            });
        };
        Ok(Self {
            key: key.clone(),
            transitions,
            head,
        })
    }

    /// Adds the next transition, or says why it is not that; then the chain stays as it is.
    pub fn push(&mut self, next: SignedTransition) -> Result<(), ChainError> {
        let last = self.transitions.last();
        self.head = check_next(
            last.map(|last| (self.head, &last.transition)),
            &next,
            &self.key,
        )?;
        self.transitions.push(next);
        Ok(())
    }

    /// The end of the history.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The transitions, the first one first.
    pub fn iter(&self) -> slice::Iter<'_, SignedTransition> {
        self.transitions.iter()
    }

    /// Refuses the history unless it contains the remembered one: neither older, nor a fork at any
    /// place.
    pub fn check_extends(&self, remembered: &Head) -> Result<(), Rollback> {
        check_not_older(remembered, &self.head)?;
        let own = remembered
            .seq
            .checked_sub(1)
            .and_then(|position| self.transitions.get(usize::try_from(position).ok()?));
        own.map_or(Ok(()), |own| {
            check_not_older(remembered, &own.transition.head())
        })
    }
}

impl<'a> IntoIterator for &'a Chain {
    type Item = &'a SignedTransition;
    type IntoIter = slice::Iter<'a, SignedTransition>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Whether `next` follows `last`, or is the first.
///
/// The signature comes first: whatever is wrong after that is what a Coordinator signed.
fn check_next(
    last: Option<(Head, &Transition)>,
    next: &SignedTransition,
    key: &TransitionKey,
) -> Result<Head, ChainError> {
    let (previous, manifest) = last.map_or((START, None), |(head, transition)| {
        (head, Some(transition.manifest))
    });
    let seq = previous.seq.saturating_add(1);
    let fault = |why| Err(ChainError { seq, why });
    if key.verify(next).is_err() {
        return fault(ChainFault::Signature);
    }
    let next = &next.transition;
    if next.seq != seq {
        return fault(ChainFault::Sequence { got: next.seq });
    }
    if next.previous != previous.hash {
        return fault(ChainFault::Previous {
            got: next.previous,
            want: previous.hash,
        });
    }
    match (next.kind, manifest) {
        (Kind::Manifest, _) => {}
        (kind, None) => return fault(ChainFault::FirstIsNoManifest { kind }),
        (kind, Some(want)) if next.manifest != want => {
            return fault(ChainFault::ChangesManifest {
                kind,
                got: next.manifest,
                want,
            });
        }
        _ => {}
    }
    Ok(next.head())
}

/// The end of the history that has no transition.
const START: Head = Head {
    seq: 0,
    hash: Digest([0; 32]),
};

/// Where a history breaks, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("transition {seq}: {why}")]
pub struct ChainError {
    /// The place in the history, counted from 1.
    pub seq: u64,
    /// What is wrong there.
    pub why: ChainFault,
}

/// What is wrong with a transition in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChainFault {
    /// There is none.
    #[error("missing: the history is empty")]
    Empty,
    /// Flipped bits, another signer, or another key.
    #[error("the signature is wrong: it has been changed, or signed with another key")]
    Signature,
    /// A transition is missing, repeated or out of order.
    #[error("missing: in its place is transition {got}")]
    Sequence {
        /// The place that the transition says it has.
        got: u64,
    },
    /// The transition follows another one than the one before it.
    #[error("the history is forked: it follows {got}, but the transition before it is {want}")]
    Previous {
        /// The hash it follows.
        got: Digest,
        /// The hash of the transition before it, or zeros.
        want: Digest,
    },
    /// Nothing can be recovered or rotated before there is a manifest.
    #[error("a history begins with a manifest, not with kind {kind}")]
    FirstIsNoManifest {
        /// What it begins with.
        kind: Kind,
    },
    /// Only a manifest makes another manifest active.
    #[error("kind {kind} changes the manifest to {got}, from {want}")]
    ChangesManifest {
        /// What does it.
        kind: Kind,
        /// The manifest it makes active.
        got: Digest,
        /// The manifest that was active.
        want: Digest,
    },
}
