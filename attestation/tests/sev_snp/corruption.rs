//! Every single bit counts.

use attestation::Code;

use crate::authority::{Authorities, List};
use crate::own_chip::Chip;
use crate::vectors::{self, Genuine, judge};

/// Flips each bit of `bytes` in turn, on as many threads as there are processors, and gives the
/// bits for which `accepted` says yes.
fn accepted_flips(bytes: &[u8], accepted: impl Fn(Vec<u8>) -> bool + Sync) -> Vec<usize> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let accepted = &accepted;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || {
                    (first..bytes.len() * 8)
                        .step_by(threads)
                        .filter(|bit| {
                            let mut flipped = bytes.to_vec();
                            flipped[bit / 8] ^= 1 << (bit % 8);
                            accepted(flipped)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    })
}

fn no_flip_of_the_report_is_accepted(it: &Genuine) {
    let accepted = accepted_flips(&it.evidence.report, |report| {
        judge(&vectors::evidence(report, it.evidence.vek.clone())).is_ok()
    });
    assert_eq!(accepted, [0; 0], "{}", it.name);
}

fn no_flip_of_the_vcek_is_accepted(it: &Genuine) {
    let accepted = accepted_flips(&it.evidence.vek, |vek| {
        judge(&vectors::evidence(it.evidence.report.clone(), vek)).is_ok()
    });
    assert_eq!(accepted, [0; 0], "{}", it.name);
}

#[test]
fn every_bit_of_a_report_of_version_2_counts() {
    no_flip_of_the_report_is_accepted(&vectors::milan_v2());
}

#[test]
fn every_bit_of_a_report_of_version_3_counts() {
    no_flip_of_the_report_is_accepted(&vectors::milan_v3());
}

#[test]
fn every_bit_of_a_vcek_counts() {
    // One with and one without the trailer field.
    no_flip_of_the_vcek_is_accepted(&vectors::milan_v2());
    no_flip_of_the_vcek_is_accepted(&vectors::genoa_v3());
}

#[test]
fn every_signed_bit_of_a_revocation_list_counts_and_of_its_signature() {
    let chip = Chip::milan();
    let whole = Authorities::trusted().ark.list(&List::default());
    let evidence = chip.evidence(chip.report(3), &chip.vek());
    let accepted = accepted_flips(&whole, |crl| {
        let mut evidence = evidence.clone();
        evidence.crl = Some(crl);
        chip.judge(&evidence).is_ok()
    });
    // What is left is the frame: the outermost tag, and the algorithm between list and signature,
    // which says again what the list says itself.
    let (_, list) = x509_parser::parse_x509_crl(&whole).unwrap();
    let signed = list.tbs_cert_list.as_ref();
    let start = whole
        .windows(signed.len())
        .position(|window| window == signed)
        .unwrap();
    let signature = whole.len() - list.signature_value.data.len();
    for bit in accepted {
        let byte = bit / 8;
        assert!(byte < start || byte >= start + signed.len(), "bit {bit}");
        assert!(byte < signature, "bit {bit}");
    }
}

#[test]
fn bytes_after_the_signature_are_refused_for_what_they_are() {
    let it = vectors::genoa_v3().evidence;
    for at in (0x2d0..0x2e8).chain(0x318..0x4a0) {
        let mut evidence = it.clone();
        evidence.report[at] = 0x80;
        let refusal = judge(&evidence).unwrap_err();
        assert_eq!(refusal.code, Code::Malformed, "byte {at:#x}");
        assert_eq!(refusal.field, "report.signature");
    }
}

#[test]
fn the_other_form_of_a_signature_changes_nothing_that_is_claimed() {
    // ECDSA accepts n - s for s: the order of P-384, little-endian.
    let mut order = hex::decode(
        "ffffffffffffffffffffffffffffffffffffffffffffffff\
         c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    )
    .unwrap();
    order.reverse();
    let it = vectors::milan_v3();
    let mut other = it.evidence.clone();
    let mut borrow = false;
    for (n, s) in order.iter().zip(&mut other.report[0x2e8..0x318]) {
        let (difference, first) = n.overflowing_sub(*s);
        let (difference, second) = difference.overflowing_sub(u8::from(borrow));
        (*s, borrow) = (difference, first || second);
    }
    assert_ne!(other, it.evidence);
    assert_eq!(judge(&other).unwrap(), judge(&it.evidence).unwrap());
}
