//! Every change of a real quote.

use attestation::Code;
use attestation::tdx::Quote;

use crate::support::{
    BODY, PCK_CHAIN, REAL_NOW, SIGNATURE, SIGNATURE_DATA_LEN, assert_refused, at, pck_chain, real,
    to_pem, vector, with_pck_chain,
};

#[test]
fn every_flipped_bit_up_to_the_certificates_is_refused() {
    let mut evidence = real();
    for bit in 0..PCK_CHAIN * 8 {
        evidence.quote[bit / 8] ^= 1 << (bit % 8);
        at(&evidence, REAL_NOW).expect_err("refused");
        evidence.quote[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_flipped_bit_in_what_is_signed_is_a_bad_signature() {
    let body_after_attributes = BODY + 128..SIGNATURE_DATA_LEN;
    let keys_and_signatures = SIGNATURE..SIGNATURE + 128;
    for byte in body_after_attributes.chain(keys_and_signatures) {
        let mut evidence = real();
        evidence.quote[byte] ^= 1 << (byte % 8);
        assert_refused(at(&evidence, REAL_NOW), Code::Signature);
    }
}

#[test]
fn every_flipped_bit_of_the_platforms_certificate_is_refused() {
    refuse_flips_of(0);
}

#[test]
fn every_flipped_bit_of_the_intermediate_certificate_is_refused() {
    refuse_flips_of(1);
}

fn refuse_flips_of(certificate: usize) {
    let accepted = at(&real(), REAL_NOW).unwrap();
    let quote = real().quote;
    let chain = pck_chain(&quote);
    assert_eq!(chain.len(), 3);
    let mut evidence = real();
    evidence.quote = with_pck_chain(&quote, &to_pem(&chain));
    assert_eq!(at(&evidence, REAL_NOW).unwrap(), accepted);
    for bit in 0..chain[certificate].len() * 8 {
        let mut changed = chain.clone();
        changed[certificate][bit / 8] ^= 1 << (bit % 8);
        evidence.quote = with_pck_chain(&quote, &to_pem(&changed));
        at(&evidence, REAL_NOW).expect_err("refused");
    }
}

#[test]
fn a_change_of_the_chains_text_changes_no_claim() {
    let accepted = at(&real(), REAL_NOW).unwrap();
    let mut evidence = real();
    let mut harmless = 0;
    for byte in PCK_CHAIN..evidence.quote.len() {
        let bit = 1 << (byte % 8);
        evidence.quote[byte] ^= bit;
        if let Ok(verdict) = at(&evidence, REAL_NOW) {
            assert_eq!(verdict, accepted, "byte {byte}");
            harmless += 1;
        }
        evidence.quote[byte] ^= bit;
    }
    assert!(
        harmless > 0,
        "the copy of the root in the quote is not used"
    );
}

#[test]
fn a_truncated_quote_is_refused() {
    let whole = real().quote;
    let padding = whole.iter().rev().take_while(|byte| **byte == 0).count();
    let end = with_pck_chain(&whole, &whole[PCK_CHAIN..whole.len() - 70]).len();
    assert!(whole.len() - end <= padding);
    let mut evidence = real();
    for length in 0..end {
        evidence.quote.truncate(0);
        evidence.quote.extend_from_slice(&whole[..length]);
        assert_refused(at(&evidence, REAL_NOW), Code::Malformed);
    }
    for length in end..whole.len() {
        evidence.quote = whole[..length].to_vec();
        at(&evidence, REAL_NOW).unwrap();
    }
}

#[test]
fn truncated_quotes_of_every_vector_are_refused_without_panic() {
    for name in [
        "tdx/dcap-qvl/tdx_quote_outdated",
        "tdx/go-tdx-guest/cos-113-tdx-quote.dat",
        "sgx/sgx_quote",
    ] {
        let whole = vector(name);
        for length in 0..4900.min(whole.len()) {
            Quote::parse(&whole[..length]).expect_err("refused");
        }
    }
}

#[test]
fn a_length_that_lies_is_refused() {
    let mut evidence = real();
    for at_offset in [SIGNATURE_DATA_LEN, SIGNATURE + 130, PCK_CHAIN - 4] {
        for length in [0, 1, 599, u32::MAX, u32::MAX - 3, 1 << 31] {
            let field = at_offset..at_offset + 4;
            let saved = evidence.quote[field.clone()].to_vec();
            evidence.quote[field.clone()].copy_from_slice(&length.to_le_bytes());
            assert_refused(at(&evidence, REAL_NOW), Code::Malformed);
            evidence.quote[field].copy_from_slice(&saved);
        }
    }
}

#[test]
fn an_oversized_quote_is_refused() {
    let mut evidence = real();
    evidence.quote.resize(Quote::MAX_BYTES, 0);
    at(&evidence, REAL_NOW).unwrap();
    evidence.quote.push(0);
    assert_refused(at(&evidence, REAL_NOW), Code::Malformed);
}

#[test]
fn the_chain_of_another_machine_is_refused() {
    let mut evidence = real();
    let other = vector("tdx/dcap-qvl/quote-from-tappd.hex");
    let chain = to_pem(&pck_chain(&other));
    evidence.quote = with_pck_chain(&evidence.quote, &chain);
    assert_refused(at(&evidence, REAL_NOW), Code::Signature);
}

#[test]
fn a_signature_of_another_quote_is_refused() {
    let mut evidence = real();
    let other = vector("tdx/dcap-qvl/tdx-quote.hex");
    evidence.quote.truncate(SIGNATURE_DATA_LEN);
    evidence
        .quote
        .extend_from_slice(&other[SIGNATURE_DATA_LEN..]);
    assert_refused(at(&evidence, REAL_NOW), Code::Signature);
}
