//! `sealwire evidence`, as people and checks meet it: files, answers, exit codes.
//!
//! The files are the real reports and quotes that `attestation/tests/vectors/README.md` describes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod files;
mod reference;
mod run;
mod show;
mod snp;
mod tdx;
