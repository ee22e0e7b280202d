//! TLS 1.3 between Sealwire agents and their peers: configuration, peer verification, the handshake,
//! the record layer and the relay that copies a connection through it, with or without the kernel's
//! TLS. It contains no eBPF and no policy: deadlines, connection limits and the question whether a verified peer
//! is an allowed peer are the caller's.
//!
//! A connection passes the modules in this order:
//!
//! 1. [`Credentials`]: the PEM files of one workload, parsed and checked against each other.
//! 2. [`MeshTls`]: the rustls configurations and the peer verifier made from them.
//! 3. [`connect`] or [`accept`]: one handshake, which ends in a [`Session`].
//! 4. [`relay()`]: both directions until both have ended, which ends in a [`RelayEnd`].
#![forbid(unsafe_code)]

mod alert;
mod assurance;
mod certificate;
mod config;
mod content;
mod credentials;
mod handshake;
mod offload;
mod queues;
mod records;
mod refusal;
mod relay;
mod session;
mod trust_anchors;
mod verifier;
mod webpki_error;
mod wire_socket;

#[cfg(test)]
mod testing;

pub use alert::Alert;
pub use assurance::Assurance;
pub use certificate::IdentityProblem;
pub use config::{ClientAuth, MeshTls, Offer};
pub use credentials::{Credentials, CredentialsError, CredentialsFile, Validity};
pub use handshake::{Alpn, Handshaken, KeyExchange, accept, connect};
pub use offload::{BULK_BYTES, Events, Flow, LARGE_READ, Offload, Takeover};
pub use queues::{CHATTY_READS, Queues};
pub use records::RecordError;
pub use refusal::{HandshakeError, HandshakeRefusal, PresentedCertificate};
pub use relay::{RelayEnd, StopSignal, Traffic, relay, relay_plaintext};
pub use session::{Session, SessionId};
pub use wire_socket::WireSocket;
