//! `sev_snp::authenticate`: any bytes as the report, with the certificates of real chips and without
//! one. Accepted is what a chip has signed and nothing else.
#![no_main]

use std::sync::LazyLock;

use attestation::Code;
use attestation::sev_snp::{Evidence, Roots, authenticate};
use fuzz::genuine_snp::{self, NOW};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;

static GENUINE: LazyLock<Vec<Evidence>> = LazyLock::new(|| genuine_snp::all().to_vec());
static ROOTS: LazyLock<Roots> = LazyLock::new(Roots::amd);

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    GENUINE.iter().map(|it| it.report.clone()).collect()
}

fn attempt(bytes: &[u8]) -> Outcome {
    let bare = Evidence {
        report: bytes.to_vec(),
        vek: vec![],
        crl: None,
    };
    let refusal = authenticate(&bare, &ROOTS, NOW).expect_err("nothing vouches for the key");
    if refusal.code != Code::Missing {
        // The report itself is at fault: no certificate can help.
        return Outcome::Refused;
    }
    let evidence = Evidence {
        vek: of_chip(bytes).vek.clone(),
        ..bare
    };
    let verdict = authenticate(&evidence, &ROOTS, NOW);
    if verdict.is_ok() {
        let signed = |report: &[u8]| report[..0x2a0].to_vec();
        assert!(
            GENUINE.iter().any(|it| signed(&it.report) == signed(bytes)),
            "no chip has signed this"
        );
    }
    Outcome::of(&verdict)
}

/// The evidence of the chip that the report names, else any.
fn of_chip(report: &[u8]) -> &'static Evidence {
    let chip = |report: &[u8]| report.get(0x1a0..0x1e0).map(<[u8]>::to_vec);
    let named = GENUINE.iter().find(|it| chip(&it.report) == chip(report));
    named.unwrap_or(&GENUINE[0])
}
