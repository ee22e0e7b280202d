//! A deployment's state: what history says, and the secrets that go with it.

mod keyring;
mod ledger;
mod mesh_view;
mod objects;
mod stored;

pub use keyring::Keyring;
pub use ledger::{Founders, Ledger, LedgerError, Parts};
pub use mesh_view::{Generation, MeshView, Stage};
pub use objects::{Entry, PkiRecord};
pub use stored::{Unverified, read_entries};
