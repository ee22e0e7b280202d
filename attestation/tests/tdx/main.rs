//! Verification of Intel TDX evidence: real quotes, corrupted ones, and those of a simulated Intel.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod certificates;
mod collateral;
mod corruption;
mod oracle;
mod simulated;
mod simulated_intel;
mod simulated_pki;
mod support;
mod vectors;
