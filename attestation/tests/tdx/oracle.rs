//! Second opinions: the signatures by another path through other code, and dcap-qvl with another
//! cryptographic library.

use attestation::tdx::{self, Evidence, Root};
use attestation::{Code, Digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::configs::RustCryptoConfig;
use dcap_qvl::verify::QuoteVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::support::{
    PCK_CHAIN, REAL_NOW, at, evidence, pck_chain, real, to_pem, unix, vector, with_pck_chain,
};

/// Whether all signatures from the guest's report up to Intel's root hold. Reads by offsets.
fn signatures_hold(quote: &[u8]) -> Option<bool> {
    let body = match quote.first()? {
        4 => 584,
        5 => 6 + u32::from_le_bytes(quote.get(50..54)?.try_into().ok()?) as usize,
        _ => return None,
    };
    let (signed, rest) = quote.split_at_checked(48 + body)?;
    let part = |from: usize, bytes: usize| rest.get(from..from + bytes);
    let key = [&[4], part(68, 64)?].concat();
    let qe_report = part(138, 384)?;
    let auth_data = part(138 + 450, 32)?;
    let chain = rest.get(138 + 488..)?;
    let certificates: Vec<_> = x509_parser::pem::Pem::iter_from_buffer(chain)
        .map_while(Result::ok)
        .collect();
    let [leaf, issuer, ..] = &certificates[..] else {
        return Some(false);
    };
    let (Ok(leaf), Ok(issuer)) = (leaf.parse_x509(), issuer.parse_x509()) else {
        return Some(false);
    };
    let root = vector("tdx/intel_sgx_root_ca.der");
    let (_, root) = X509Certificate::from_der(&root).ok()?;

    let holds = |key: &[u8], message: &[u8], signature: &[u8]| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
            .verify(message, signature)
            .is_ok()
    };
    let named = Digest::of(&[&key[1..], auth_data].concat());
    let pck = &leaf.public_key().subject_public_key.data;
    Some(
        holds(&key, signed, part(4, 64)?)
            && named.0 == qe_report[320..352]
            && holds(pck, qe_report, part(138 + 384, 64)?)
            && leaf.issuer() == issuer.subject()
            && leaf.verify_signature(Some(issuer.public_key())).is_ok()
            && issuer.is_ca()
            && issuer.issuer() == root.subject()
            && issuer.verify_signature(Some(root.public_key())).is_ok(),
    )
}

#[test]
fn the_signatures_of_every_real_quote_hold() {
    for (name, code) in [
        ("tdx/dcap-qvl/tdx_quote", Code::Missing),
        ("tdx/dcap-qvl/tdx_quote_outdated", Code::Missing),
        ("tdx/dcap-qvl/tdx-quote.hex", Code::Missing),
        ("tdx/dcap-qvl/quote-from-tappd.hex", Code::Missing),
        ("tdx/go-tdx-guest/cos-113-tdx-quote.dat", Code::Missing),
        (
            "tdx/go-tdx-guest/tdx_prod_quote_SPR_E4.dat",
            Code::Malformed,
        ),
    ] {
        assert_eq!(signatures_hold(&vector(name)), Some(true), "{name}");
        let refusal = at(&evidence(name, None), REAL_NOW).unwrap_err();
        assert_eq!(refusal.code, code, "{name}: {refusal}");
    }
}

#[test]
fn what_the_second_opinion_refuses_is_refused() {
    let mut evidence = real();
    let mut refused = 0;
    let mut compare = |evidence: &Evidence| {
        if signatures_hold(&evidence.quote) != Some(true) {
            at(evidence, REAL_NOW).expect_err("refused");
            refused += 1;
        }
    };
    for byte in 0..PCK_CHAIN {
        let bit = 1 << (byte % 8);
        evidence.quote[byte] ^= bit;
        compare(&evidence);
        evidence.quote[byte] ^= bit;
    }
    let chain = pck_chain(&evidence.quote);
    for certificate in 0..2 {
        for byte in 0..chain[certificate].len() {
            let mut changed = chain.clone();
            changed[certificate][byte] ^= 1 << (byte % 8);
            evidence.quote = with_pck_chain(&evidence.quote, &to_pem(&changed));
            compare(&evidence);
        }
    }
    let unsigned = 4 + 2 + 4 + 2 + 2 + 4; // lengths and types, which it does not look at
    let tags = 2 * 2; // of the certificates' outer algorithm, which x509-parser does not compare
    let bytes = PCK_CHAIN - unsigned + chain[0].len() + chain[1].len() - tags;
    assert!(refused >= bytes, "{refused} of {bytes}");
}

#[test]
fn dcap_qvl_with_rust_crypto_agrees() {
    let root = vector("tdx/intel_sgx_root_ca.der");
    let collaterals = [
        "tdx/dcap-qvl/tdx_quote_collateral.json",
        "tdx/dcap-qvl/tdx_quote_outdated_collateral.json",
        "sgx/sgx_quote_collateral.json",
    ];
    let mut accepted = 0;
    for quote in [
        "tdx/dcap-qvl/tdx_quote",
        "tdx/dcap-qvl/tdx_quote_outdated",
        "tdx/dcap-qvl/tdx-quote.hex",
        "tdx/dcap-qvl/quote-from-tappd.hex",
        "tdx/go-tdx-guest/cos-113-tdx-quote.dat",
    ] {
        for collateral in collaterals {
            let evidence = evidence(quote, Some(collateral));
            let document: QuoteCollateralV3 = serde_json::from_slice(&evidence.collateral).unwrap();
            let now = unix(REAL_NOW);
            let theirs = QuoteVerifier::<RustCryptoConfig>::new_with_config(root.clone()).verify(
                &evidence.quote,
                &document,
                now.as_secs(),
            );
            let ours = tdx::authenticate(&evidence, &Root::intel(), now);
            match (&theirs, &ours) {
                (Ok(theirs), Ok(ours)) => {
                    assert_eq!(theirs.status, ours.tcb_status().as_str());
                    assert_eq!(theirs.advisory_ids, ours.advisories());
                    assert_eq!(theirs.ppid, ours.ppid());
                    accepted += 1;
                }
                (Err(_), Err(_)) => (),
                _ => panic!("{quote}, {collateral}: {theirs:?}, {ours:?}"),
            }
        }
    }
    assert!(accepted > 0);
}
