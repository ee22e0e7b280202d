//! `tdx::authenticate`: any bytes as the collateral of a genuine quote. Accepted is what says the same
//! as Intel's own.
#![no_main]

use std::sync::LazyLock;

use attestation::tdx::{Evidence, Root, TcbStatus, authenticate};
use fuzz::genuine_tdx::{self, NOW};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static GENUINE: LazyLock<Evidence> = LazyLock::new(genuine_tdx::evidence);
static ROOT: LazyLock<Root> = LazyLock::new(Root::intel);
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let collateral = &GENUINE.collateral;
    let mut other: Value = serde_json::from_slice(collateral).expect("JSON");
    // The chain is in the quote already; it may come along with the collateral too.
    let chain = String::from_utf8_lossy(&GENUINE.quote);
    let begin = chain.find("-----BEGIN").expect("a chain");
    let end = chain.rfind("-----END CERTIFICATE-----").expect("a chain");
    other["pck_certificate_chain"] = json!(chain[begin..end + 26]);
    vec![collateral.clone(), other.to_string().into_bytes()]
});

fuzz_target!(init: start(&SEEDS, attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn attempt(bytes: &[u8]) -> Outcome {
    let evidence = Evidence {
        quote: GENUINE.quote.clone(),
        collateral: bytes.to_vec(),
    };
    let verdict = authenticate(&evidence, &ROOT, NOW);
    match &verdict {
        Ok(quote) => {
            assert_eq!(quote.tcb_status(), TcbStatus::UpToDate);
            assert_eq!(quote.tcb_evaluation_data_number(), 17);
            assert_eq!(quote.fmspc(), [0xb0, 0xc0, 0x6f, 0, 0, 0]);
            assert!(quote.advisories().is_empty());
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
    Outcome::of(&verdict)
}
