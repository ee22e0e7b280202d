//! The Coordinator's two APIs: messages, clients and servers, generated from
//! `proto/sealwire.proto`, which documents each of them.

#![forbid(unsafe_code)]

pub mod client;

/// Version 1.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)] // generated
pub mod v1 {
    tonic::include_proto!("sealwire.v1");
}

/// The longest message that either side reads, in bytes: a manifest with its policies.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The response metadata that carries a refusal's stable code.
pub const CODE: &str = "sealwire-code";

/// The response metadata that carries the id under which the Coordinator's log gives the reason.
pub const ID: &str = "sealwire-id";
