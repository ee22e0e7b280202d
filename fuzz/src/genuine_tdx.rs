//! The genuine quote among the vectors that has collateral.

use attestation::tdx::Evidence;
use rustls_pki_types::UnixTime;

use crate::{at, vector};

/// 2025-06-19 11:32:27 UTC, an hour after Intel issued the collateral.
pub const NOW: UnixTime = at(1_750_332_747);

/// The quote with its collateral.
pub fn evidence() -> Evidence {
    Evidence {
        quote: vector("tdx/dcap-qvl/tdx_quote"),
        collateral: vector("tdx/dcap-qvl/tdx_quote_collateral.json"),
    }
}
