//! Append-only history: every manifest that was ever active, in order, signed; and who may add one.
//!
//! A [`Transition`] makes a manifest the active one. It holds the hash of the one before, and the
//! key that the Coordinators derive from their seed signs it, so that a [`Chain`] proves its own
//! order and completeness to whoever knows that key: the store it comes from need not be trusted. A
//! [`Head`] is what to remember of a chain to notice an older one or a fork. The owners whose keys
//! the active manifest names authorise the next one: [`update_statement`], [`authorise`].
//!
//! Nothing here reads a store, a manifest or a clock.

#![forbid(unsafe_code)]

mod authorisation;
mod chain;
mod curve;
mod encoding;
mod head;
mod owner_key;
mod signing;
mod transition;

pub use authorisation::{Authorisation, AuthorisationError, authorise, update_statement};
pub use chain::{Chain, ChainError, ChainFault};
pub use head::{Head, Rollback, check_not_older};
pub use owner_key::{OwnerKey, OwnerKeyError, OwnerSignError};
pub use signing::{
    SignError, SignedTransition, SigningKeyError, TransitionKey, TransitionKeyError,
    TransitionSigner, WrongSignature,
};
pub use transition::{
    Kind, MAX_AUTHORISATIONS, MAX_KEY, MAX_SIGNATURE, Transition, TransitionError, TransitionPart,
};
