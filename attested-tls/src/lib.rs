//! TLS 1.3 in which each side proves, before any other byte, what it runs on.
//!
//! The handshake authenticates two ephemeral keys and nothing else. Then both sides send a
//! challenge, evidence that answers the other's challenge, and a verdict. Evidence is bound to the
//! exporter value of the very session, so that relaying it into another one is refused even from
//! who holds the TLS keys of both victims ([`attestation::Binding`] has the list of what is bound).
//!
//! It makes no evidence and judges none: that is `attester`'s and the caller's [`Appraiser`]. It
//! knows no certificates, no names and no resumption.
//!
//! 1. [`AttestedTls`]: the configuration, made once. [`AttestedTls::connect`] and
//!    [`AttestedTls::accept`] do handshake and exchange.
//! 2. [`AttestedStream`]: what they end in; [`Peer`] says whom it leads to.
//! 3. [`channel()`] and [`Acceptor`]: gRPC on top, as client and as server.

#![forbid(unsafe_code)]

mod acceptor;
mod admission;
mod appraisal;
mod attested_tls;
mod channel;
mod config;
mod connections;
mod counters;
mod error;
mod exchange;
mod frame;
mod raw_key;
mod session;
mod session_key;
mod source;
mod stream;
pub mod wire;

#[cfg(test)]
mod tests;

pub use acceptor::{Acceptor, Incoming, Limits};
pub use appraisal::{Appraiser, Demand, Offer, Presented};
pub use attested_tls::AttestedTls;
pub use channel::channel;
pub use config::ALPN;
pub use counters::{Counters, Counts};
pub use error::{AttestedTlsError, CorrelationId, ProtocolViolation};
pub use session_key::SessionKey;
pub use stream::{AttestedStream, ConnectedPeer, Peer};
