//! A deployment's state: what history says, and the secrets that go with it.

mod keyring;
mod ledger;
mod mesh_view;
mod objects;

pub use keyring::Keyring;
pub use ledger::{Ledger, LedgerError, Parts, Unverified, read_entries};
pub use mesh_view::{Generation, MeshView, Stage};
pub use objects::{Entry, PkiRecord};
