//! Certificates from a Coordinator: asks for them, renews them, and follows what the Coordinator says
//! of the mesh.
//!
//! What is believed and what follows from it is decided in [`standing`], without sockets and clocks.
//! [`enroller`] does the talking, for as long as the agent lives; [`once`], for `sealwire-agent init`.

mod backoff;
mod call;
mod coordinators;
mod enroller;
mod error;
mod health;
mod held;
mod key;
mod memory;
mod mesh_state;
mod once;
mod prepared;
mod random;
mod renewal;
mod slot;
mod standing;

pub(crate) use enroller::Enroller;
pub use error::SetupError;
pub(crate) use health::Trouble;
pub use once::{InitError, init};
pub(crate) use prepared::Prepared;
pub(crate) use slot::Slot;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
