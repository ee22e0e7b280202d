//! `tdx::authenticate`: any bytes as the quote, with the collateral of a real platform. Accepted is
//! what the platform has signed and nothing else.
#![no_main]

use std::slice;
use std::sync::LazyLock;

use attestation::tdx::{Evidence, Root, authenticate};
use fuzz::genuine_tdx::{self, NOW};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;

static GENUINE: LazyLock<Evidence> = LazyLock::new(genuine_tdx::evidence);
static ROOT: LazyLock<Root> = LazyLock::new(Root::intel);

/// Header, body, and their signature with all that the quoting enclave vouches for: up to the
/// certificates, which say the same in many spellings.
const SIGNED: usize = 48 + 584 + 4 + 64 + 64 + 2 + 4 + 384 + 64 + 2 + 32;

fuzz_target!(init: start(slice::from_ref(&GENUINE.quote), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn attempt(bytes: &[u8]) -> Outcome {
    let evidence = Evidence {
        quote: bytes.to_vec(),
        collateral: GENUINE.collateral.clone(),
    };
    let verdict = authenticate(&evidence, &ROOT, NOW);
    match &verdict {
        Ok(quote) => {
            let same = |range: std::ops::Range<usize>| {
                assert_eq!(
                    bytes[range.clone()],
                    GENUINE.quote[range],
                    "nobody has signed this"
                );
            };
            // Two lengths in between change with the certificates.
            same(0..48 + 584);
            same(48 + 584 + 4..48 + 584 + 4 + 130);
            same(48 + 584 + 4 + 130 + 4..SIGNED);
            assert!(quote.fields().iter().all(|(name, _)| !name.is_empty()));
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
    Outcome::of(&verdict)
}
