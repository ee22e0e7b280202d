//! Who a peer is, and what proves it, in the terms of RATS (RFC 9334).
//!
//! Evidence goes one way: bytes from a peer become [`Evidence`], a [`Verifier`] authenticates it and
//! appraises it against [`ReferenceValues`], and only that makes an [`AttestationResult`]. Evidence
//! carries its own endorsements (certificates, revocation lists, collateral).
//!
//! Holds no sockets, files or clock: bytes, times and trust anchors are arguments.

#![forbid(unsafe_code)]

mod binding;
mod evidence;
pub mod identity;
pub mod oid;
mod refusal;
mod result;
pub mod sev_snp;
pub mod simulated;
pub mod tdx;
mod tee;
mod verifier;

pub use binding::{Binding, Digest, ReportData, Role};
pub use evidence::Evidence;
pub use refusal::{Class, Code, Refusal, Refusals};
pub use result::{AttestationResult, Claims};
pub use tee::Tee;
pub use verifier::{ReferenceValues, SimulatedTee, Verifier};
