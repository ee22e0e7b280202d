//! The seed: the one secret that a Coordinator derives its keys from, and its shares.
//!
//! [`Seed`] makes the root CA key, the key that signs the history and the workload secrets, always
//! the same ones. [`split`] shares it among owners such that any `k` of them can give it back to a
//! new Coordinator ([`Gathering`]) and fewer learn nothing. Nothing here reads or writes a file, or
//! decides who may recover: that is the Coordinator's part.

#![forbid(unsafe_code)]

mod derivation;
mod derived_key;
mod seed;
mod shares;

pub use derived_key::DerivedKey;
pub use seed::{Seed, SeedError};
pub use shares::document::{DocumentError, DocumentPart, MAX_DOCUMENT, SharesDocument};
pub use shares::gathering::{CombineError, Gathering, Progress};
pub use shares::open::{DecryptError, OwnerKeyError};
pub use shares::share::{ENCODED_SHARE, SetId, Share, ShareDecodeError, ShareError};
pub use shares::split::{MAX_SHARES, PublicKeyError, SplitError, split};
