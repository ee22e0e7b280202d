//! The manifest: what a deployment trusts, who may change it, and how.
//!
//! Bytes become a [`Manifest`] only if every rule holds; otherwise [`Manifest::parse`] gives every
//! error at once, each with where, what was found and what was wanted. The format is Contrast's,
//! read strictly, with what it lacks: SPIFFE IDs, allowed peers, instance caps, quorums, rotation.
//!
//! Holds no sockets, files or clock.

#![forbid(unsafe_code)]

mod diff;
mod error;
mod manifest;
mod owners;
mod path;
mod policies;
mod read;
mod reference_file;
mod reference_values;
mod rotation;
mod rsa_public_key;
mod template;
mod workload_owner_key;

pub use diff::{Change, PolicyChange, diff};
pub use error::{ManifestError, ManifestErrors, Problem};
pub use manifest::Manifest;
pub use policies::{AllowedPeers, Policy, Role};
pub use reference_file::reference_values_of;
pub use rotation::{Rotation, RotationMode, in_words};
pub use rsa_public_key::{RsaPublicKeyError, rsa_public_key};
pub use template::{ReferenceTemplate, Template, template};
pub use workload_owner_key::{WorkloadOwnerKeyError, workload_owner};
