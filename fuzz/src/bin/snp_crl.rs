//! `sev_snp::authenticate`: any bytes as the revocation list, beside evidence that holds. Accepted is
//! a list that the root or the chip's issuer has signed and nothing else.
//!
//! There is no list of AMD's among the vectors, so chip and authorities are those of the tests.
#![no_main]

use std::sync::LazyLock;

use attestation::sev_snp::{Evidence, Roots, authenticate};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;

use authority::{Authorities, List, Usage};
use own_chip::Chip;
use vectors::{NOW, at};

#[allow(dead_code)]
#[path = "../../../attestation/tests/sev_snp/authority.rs"]
mod authority;
#[allow(dead_code)]
#[path = "../../../attestation/tests/sev_snp/der.rs"]
mod der;
#[allow(dead_code)]
#[path = "../../../attestation/tests/sev_snp/own_chip.rs"]
mod own_chip;
#[allow(dead_code)]
#[path = "../../../attestation/tests/sev_snp/vectors.rs"]
mod vectors;

static EVIDENCE: LazyLock<Evidence> = LazyLock::new(|| {
    let chip = Chip::milan();
    chip.evidence(chip.report(3), &chip.vek())
});
static ROOTS: LazyLock<Roots> = LazyLock::new(|| {
    let chip = Chip::milan();
    Authorities::trusted().roots_with(chip.product, Usage::CertificatesAndLists)
});
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let authorities = Authorities::trusted();
    let some = List {
        serials: &[1, 0x7f, 0xff],
        ..List::default()
    };
    let scoped = List {
        extensions: vec![der::extension(
            &[0x55, 0x1d, 0x1c],
            true,
            &der::sequence(&[&[0x82, 0x01, 0xff]]),
        )],
        ..List::default()
    };
    vec![
        authorities.ark.list(&List::default()),
        authorities.ark.list(&some),
        authorities.ark.list(&scoped),
        authorities.ask.list(&some),
    ]
});

fuzz_target!(init: start(&SEEDS, attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn attempt(bytes: &[u8]) -> Outcome {
    let evidence = Evidence {
        crl: Some(bytes.to_vec()),
        ..EVIDENCE.clone()
    };
    let verdict = authenticate(&evidence, &ROOTS, at(NOW));
    match &verdict {
        Ok(_) => {
            let content = |list: &[u8]| signed_part(list).to_vec();
            assert!(
                SEEDS.iter().any(|it| content(it) == content(bytes)),
                "nobody has signed this"
            );
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
    Outcome::of(&verdict)
}

/// A list begins with its content, which is what is signed: a SEQUENCE in a SEQUENCE. The name of
/// the algorithm that follows is not signed, and not believed.
fn signed_part(list: &[u8]) -> &[u8] {
    let (_, content) = split_header(list);
    let (length, rest) = split_header(content);
    &content[..content.len() - rest.len() + length]
}

/// The length of a value, and its bytes with what follows.
fn split_header(value: &[u8]) -> (usize, &[u8]) {
    match value[1] {
        0x81 => (value[2].into(), &value[3..]),
        0x82 => (u16::from_be_bytes([value[2], value[3]]).into(), &value[4..]),
        short => (short.into(), &value[2..]),
    }
}
