//! `Evidence::decode`: any bytes. What is read is read again from what it is written as.
#![no_main]

use attestation::{Evidence, simulated};
use fuzz::{Outcome, genuine_snp, genuine_tdx, start};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let [mut snp, ..] = genuine_snp::all();
    snp.crl = Some(vec![0x30; 40]);
    let simulated = simulated::Evidence {
        report: vec![5; 181],
        signature: vec![6; 70],
        key: vec![7; 91],
    };
    [
        Evidence::SevSnp(snp),
        Evidence::Tdx(genuine_tdx::evidence()),
        Evidence::Simulated(simulated),
    ]
    .map(|it| it.encode())
    .to_vec()
}

fn attempt(bytes: &[u8]) -> Outcome {
    let decoded = Evidence::decode(bytes);
    match &decoded {
        Ok(evidence) => {
            let encoded = evidence.encode();
            assert!(encoded.len() <= bytes.len(), "the encoding is the shortest");
            assert_eq!(Evidence::decode(&encoded).as_ref(), Ok(evidence));
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
    Outcome::of(&decoded)
}
