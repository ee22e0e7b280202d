//! The kernel's TLS (`CONFIG_TLS`): its protocol on a socket, keys, records, and what this kernel can
//! be trusted with. It contains no handshake, no rules of the record protocol and no event loop;
//! nothing here waits.
//!
//! A connection passes the types in this order, each made from the one before:
//!
//! 1. [`Ulp`]: the protocol `tls` is attached to a connected socket; nothing is encrypted yet.
//! 2. [`TxSlot`] and [`RxSlot`]: one direction, without a key.
//! 3. [`Tx`] and [`Rx`]: one direction with a key. Only a [`Tx`] takes plaintext for the wire.
//!
//! Before any of it stands [`Capabilities`], which says what of this the kernel does soundly.
//!
//! Minimum kernel version: 5.1 (TLS 1.3), 5.11 (ChaCha20-Poly1305); older ones fail the probe.
#![deny(unsafe_code)]

mod capabilities;
mod error;
mod known_bad;
mod nic;
mod pipe;
mod probe;
mod socket;
mod sys;
mod traffic_key;
mod version;

pub use capabilities::{Ability, Capabilities, Verdict, Why};
pub use error::SocketError;
pub use nic::NicOffload;
pub use pipe::Pipe;
pub use socket::{Drained, Received, RecordType, Rx, RxSlot, Spliced, Tx, TxSlot, Ulp};
pub use traffic_key::{Cipher, TrafficKey};
pub use version::KernelVersion;

/// What a TLS 1.3 record adds to its data: header, content type and tag (RFC 8446 section 5.2), in
/// bytes.
pub const RECORD_OVERHEAD: usize = 5 + 1 + 16;

/// The most data that one record carries, in bytes (RFC 8446 section 5.1).
pub const MAX_RECORD_DATA: usize = 1 << 14;
