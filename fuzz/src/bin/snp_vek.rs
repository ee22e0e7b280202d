//! `sev_snp::authenticate`: any bytes as the certificate of a genuine report's key. Accepted is the
//! one that AMD made and nothing else, to the bit.
#![no_main]

use std::sync::LazyLock;

use attestation::sev_snp::{Evidence, Roots, authenticate};
use fuzz::genuine_snp::{self, NOW};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;

static GENUINE: LazyLock<[Evidence; 4]> = LazyLock::new(genuine_snp::all);
static ROOTS: LazyLock<Roots> = LazyLock::new(Roots::amd);

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    GENUINE.iter().map(|it| it.vek.clone()).collect()
}

fn attempt(bytes: &[u8]) -> Outcome {
    let mut outcome = Outcome::Refused;
    // Reports of versions 2 and 3 take different ways to the roots.
    for genuine in GENUINE.iter() {
        let evidence = Evidence {
            vek: bytes.to_vec(),
            ..genuine.clone()
        };
        match authenticate(&evidence, &ROOTS, NOW) {
            Ok(_) => {
                assert_eq!(bytes, genuine.vek, "AMD has not signed this");
                outcome = Outcome::Accepted;
            }
            Err(refusal) => assert!(!refusal.to_string().is_empty()),
        }
    }
    outcome
}
