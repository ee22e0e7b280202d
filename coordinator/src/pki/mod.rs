//! The three-level PKI of a mesh.
//!
//! ```text
//!  root CA (P-384) ──signs──▶ intermediate CA ┐  one P-384 key,
//!                             mesh CA         ┘  one name, two certificates
//!                             (self-signed)          │
//!                                                    └──signs──▶ workload (P-256)
//! ```
//!
//! Mesh peers trust the mesh CA certificate alone; it is replaced with its key whenever the
//! manifest changes, which shuts out every workload of the manifest before. Data owners trust the
//! root for the life of the deployment and reach a workload through the intermediate. Because the
//! two CA certificates have the same key and subject, one workload certificate chains to either.
//!
//! A workload that has proved what it is carries the proof's claims in extensions of its certificate
//! ([`attestation::oid`]); where the TEE is simulated, its certificate is good for nothing else
//! than meeting others of that kind.
//!
//! Every certificate follows RFC 5280 and the X.509-SVID specification. Nothing here decides who
//! deserves a certificate, reads the clock, or (outside [`PkiDir`]) touches a file.

mod ca_certificate;
mod claims;
mod error;
mod key;
mod mesh_ca;
mod names;
mod pem;
mod pki_dir;
mod profile;
mod root;
mod tls_dir;
mod validity;
mod workload;
mod write;

pub use ca_certificate::CaCertificate;
pub use claims::CertificateClaims;
pub use error::PkiError;
pub use key::{Curve, KeyError, PrivateKey};
pub use mesh_ca::MeshCa;
pub use names::WorkloadNames;
pub use pki_dir::{IssuedFiles, PkiDir, PkiDirError};
pub use root::Root;
pub use tls_dir::write_tls_dir;
pub use validity::{Validity, ValidityError};
pub use workload::WorkloadCertificate;
pub use write::WriteError;
