//! `reference_values_of`: any bytes. What is read is of hardware or simulated, never both or none, and
//! reads the same under its name.
#![no_main]

use attestation::Digest;
use fuzz::{Outcome, sample_manifests, start};
use libfuzzer_sys::fuzz_target;
use manifest::reference_values_of;
use serde_json::Value;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let hardware = &sample_manifests::hardware()["ReferenceValues"];
    let simulated = sample_manifests::simulated(Digest([0x5b; 32]));
    vec![
        hardware.to_string().into_bytes(),
        format!("{{\"ReferenceValues\": {hardware}}}").into_bytes(),
        simulated["ReferenceValues"].to_string().into_bytes(),
        simulated.to_string().into_bytes(),
    ]
}

fn attempt(bytes: &[u8]) -> Outcome {
    let read = reference_values_of(bytes);
    match &read {
        Ok(values) => {
            let is_hardware = !values.snp.is_empty() || !values.tdx.is_empty();
            assert_ne!(is_hardware, !values.simulated.is_empty());
            let json: Value = serde_json::from_slice(bytes).expect("another parser agrees");
            if json.get("Policies").is_none() && json.get("ReferenceValues").is_none() {
                let named = [b"{\"ReferenceValues\":", bytes, b"}"].concat();
                assert_eq!(reference_values_of(&named).as_ref(), Ok(values));
            }
        }
        Err(errors) => {
            assert!(errors.count() > 0);
            assert!(!errors.to_string().is_empty());
        }
    }
    Outcome::of(&read)
}
