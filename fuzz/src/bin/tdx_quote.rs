//! `tdx::Quote::parse`: any bytes. A quote that is read has its fields where Intel puts them, and
//! padding changes nothing of it.
#![no_main]

use std::sync::LazyLock;

use attestation::tdx::Quote;
use fuzz::{Outcome, start, vector};
use libfuzzer_sys::fuzz_target;

static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    [
        "tdx/dcap-qvl/tdx_quote",
        "tdx/dcap-qvl/tdx_quote_outdated",
        "tdx/dcap-qvl/tdx-quote.hex",
        "tdx/dcap-qvl/quote-from-tappd.hex",
        "tdx/go-tdx-guest/cos-113-tdx-quote.dat",
        "tdx/go-tdx-guest/tdx_prod_quote_SPR_E4.dat",
    ]
    .map(vector)
    .to_vec()
});

fuzz_target!(init: start(&SEEDS, attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn attempt(bytes: &[u8]) -> Outcome {
    let parsed = Quote::parse(bytes);
    match &parsed {
        Ok(quote) => {
            let report = quote.report();
            // Version 5 has a descriptor of six bytes before the report.
            let body = if bytes[0] == 4 { 48 } else { 54 };
            assert_eq!(report.mr_td[..], bytes[body + 136..][..48]);
            assert_eq!(report.report_data[..], bytes[body + 520..][..64]);
            assert!(quote.fields().iter().all(|(name, _)| !name.is_empty()));
            if bytes.len() < Quote::MAX_BYTES {
                let padded = Quote::parse(&[bytes, &[0]].concat()).expect("padding is allowed");
                assert_eq!(padded.report(), report);
            }
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
    Outcome::of(&parsed)
}
