//! The file that describes a simulated TEE: any bytes. What is read is read again from what it is
//! written as, and its evidence holds.
#![no_main]

use attestation::{Digest, Evidence, ReportData, simulated};
use attester::simulated::generate_platform_key;
use attester::{EvidenceSource, SimulatedTeeFile};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let key = generate_platform_key().expect("a key");
    let file = SimulatedTeeFile::new(key, &[1; 48], Digest([2; 32]), &[3; 16]);
    vec![file.to_json().as_bytes().to_vec()]
}

fn attempt(bytes: &[u8]) -> Outcome {
    let Ok(file) = serde_json::from_slice::<SimulatedTeeFile>(bytes) else {
        return Outcome::Refused;
    };
    let text = file.to_json();
    let again: SimulatedTeeFile = serde_json::from_str(&text).expect("it is read again");
    assert_eq!(again.to_json(), text);
    let source = file.source();
    if let Ok(source) = &source {
        let evidence = source.evidence(&ReportData([4; 64])).expect("evidence");
        let Evidence::Simulated(evidence) = evidence else {
            panic!("evidence of another TEE");
        };
        simulated::authenticate(&evidence).expect("it signs for itself");
    }
    Outcome::of(&source)
}
