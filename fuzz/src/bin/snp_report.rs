//! `sev_snp::Report::parse`: any bytes. A report that is read has its fields where AMD puts them.
#![no_main]

use std::sync::LazyLock;

use attestation::sev_snp::Report;
use fuzz::{Outcome, start, vector};
use libfuzzer_sys::fuzz_target;

static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    [
        "snp/sev-crate/report_milan.hex",
        "snp/trustee/test-report.bin",
        "snp/azure/derived/milan-v3-v1-report.bin",
        "snp/azure/derived/genoa-v3-report.bin",
    ]
    .map(vector)
    .to_vec()
});

fuzz_target!(init: start(&SEEDS, attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn attempt(bytes: &[u8]) -> Outcome {
    let parsed = Report::parse(bytes);
    match &parsed {
        Ok(report) => {
            assert_eq!(bytes.len(), Report::LEN);
            assert_eq!(report.version.to_le_bytes(), bytes[..4]);
            assert_eq!(report.report_data.0, bytes[0x50..0x90]);
            assert_eq!(report.measurement, bytes[0x90..0xc0]);
            assert_eq!(report.host_data.0, bytes[0xc0..0xe0]);
            assert_eq!(report.chip_id, bytes[0x1a0..0x1e0]);
            assert_eq!(report.cpuid.is_some(), report.version >= 3);
            assert!(report.fields().iter().all(|(_, text)| !text.is_empty()));
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
    Outcome::of(&parsed)
}
