//! Verification of Intel TDX evidence: real quotes, corrupted ones, and those of a simulated Intel.

mod certificates;
mod collateral;
mod corruption;
mod oracle;
mod simulated;
mod simulated_intel;
mod simulated_pki;
mod support;
mod vectors;
