//! Every change of real collateral.

use attestation::tdx::Evidence;
use attestation::{Class, Code};
use serde_json::{Value, json};

use crate::support::{REAL_NOW, assert_refused, at, real};

fn changed(change: impl FnOnce(&mut Value)) -> Evidence {
    let mut evidence = real();
    let mut json = serde_json::from_slice(&evidence.collateral).unwrap();
    change(&mut json);
    evidence.collateral = serde_json::to_vec(&json).unwrap();
    evidence
}

#[test]
fn each_part_that_is_missing_is_named() {
    for field in [
        "root_ca_crl",
        "pck_crl",
        "tcb_info_issuer_chain",
        "tcb_info",
        "tcb_info_signature",
        "qe_identity_issuer_chain",
        "qe_identity",
        "qe_identity_signature",
    ] {
        for absent in [None, Some(Value::Null), Some(json!(""))] {
            let evidence = changed(|json| {
                let json = json.as_object_mut().unwrap();
                match &absent {
                    None => drop(json.remove(field)),
                    Some(value) => drop(json.insert(field.into(), value.clone())),
                }
            });
            let refusal = at(&evidence, REAL_NOW).unwrap_err();
            assert_eq!(refusal.code, Code::Missing, "{refusal}");
            assert_eq!(refusal.field, format!("collateral.{field}"));
        }
    }
}

#[test]
fn the_chain_of_the_revocation_lists_is_not_needed() {
    let evidence = changed(|json| json["pck_crl_issuer_chain"] = Value::Null);
    assert_eq!(at(&evidence, REAL_NOW), at(&real(), REAL_NOW));
}

#[test]
fn swapped_revocation_lists_are_refused() {
    let evidence = changed(|json| {
        let root = json["root_ca_crl"].take();
        json["root_ca_crl"] = json["pck_crl"].take();
        json["pck_crl"] = root;
    });
    assert_refused(at(&evidence, REAL_NOW), Code::Collateral);
    for (from, to) in [("root_ca_crl", "pck_crl"), ("pck_crl", "root_ca_crl")] {
        let evidence = changed(|json| json[to] = json[from].clone());
        assert_refused(at(&evidence, REAL_NOW), Code::Collateral);
    }
}

#[test]
fn swapped_statements_are_refused() {
    for (one, other) in [
        ("tcb_info", "qe_identity"),
        ("tcb_info_signature", "qe_identity_signature"),
    ] {
        let evidence = changed(|json| {
            let saved = json[one].take();
            json[one] = json[other].take();
            json[other] = saved;
        });
        assert_refused(at(&evidence, REAL_NOW), Code::Collateral);
    }
}

#[test]
fn a_changed_statement_is_refused() {
    for field in ["tcb_info", "qe_identity"] {
        let text = changed(|_| ()).collateral;
        let text: Value = serde_json::from_slice(&text).unwrap();
        let text = text[field].as_str().unwrap().to_owned();
        for byte in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[byte] ^= 1;
            let changed_text = String::from_utf8(bytes).unwrap();
            let evidence = changed(|json| json[field] = changed_text.into());
            let refusal = at(&evidence, REAL_NOW).unwrap_err();
            assert_eq!(refusal.code, Code::Collateral, "byte {byte}: {refusal}");
        }
    }
}

#[test]
fn a_better_judgement_that_intel_did_not_sign_is_refused() {
    let evidence = changed(|json| {
        let text = json["tcb_info"].as_str().unwrap();
        json["tcb_info"] = text.replace("2025-07-19", "2035-07-19").into();
    });
    assert_refused(at(&evidence, REAL_NOW), Code::Collateral);
}

#[test]
fn a_change_anywhere_changes_no_claim() {
    let accepted = at(&real(), REAL_NOW).unwrap();
    let mut evidence = real();
    for byte in (0..evidence.collateral.len()).step_by(5) {
        let bit = 1 << (byte % 7);
        evidence.collateral[byte] ^= bit;
        if let Ok(verdict) = at(&evidence, REAL_NOW) {
            assert_eq!(verdict, accepted, "byte {byte}");
        }
        evidence.collateral[byte] ^= bit;
    }
}

#[test]
fn a_changed_revocation_list_is_refused() {
    for field in ["root_ca_crl", "pck_crl"] {
        let whole: Value = serde_json::from_slice(&real().collateral).unwrap();
        let whole = hex::decode(whole[field].as_str().unwrap()).unwrap();
        for byte in 0..whole.len() {
            let mut list = whole.clone();
            list[byte] ^= 1 << (byte % 8);
            let evidence = changed(|json| json[field] = hex::encode(list).into());
            at(&evidence, REAL_NOW).expect_err("refused");
        }
    }
}

#[test]
fn what_is_not_the_document_is_malformed() {
    let whole = real().collateral;
    let nested = [b"{\"a\":".to_vec(), vec![b'['; 200_000]].concat();
    let oversized = [whole.clone(), vec![b' '; 256 * 1024]].concat();
    let cut = whole[..whole.len() - 2].to_vec();
    let inputs: [&[u8]; 8] = [
        b"\0",
        b"[]",
        b"7",
        b"{}}",
        b"\xff\xfe",
        &nested,
        &oversized,
        &cut,
    ];
    for collateral in inputs {
        let mut evidence = real();
        evidence.collateral = collateral.to_vec();
        let refusal = at(&evidence, REAL_NOW).unwrap_err();
        assert_eq!(refusal.code, Code::Malformed, "{refusal}");
    }
    for field in ["root_ca_crl", "tcb_info_signature"] {
        let evidence = changed(|json| json[field] = json!("xyz"));
        assert_refused(at(&evidence, REAL_NOW), Code::Malformed);
        let evidence = changed(|json| json[field] = json!([1, 2]));
        assert_refused(at(&evidence, REAL_NOW), Code::Malformed);
    }
}

#[test]
fn truncated_collateral_is_refused() {
    let whole = real().collateral;
    let end = whole.iter().rposition(|byte| *byte == b'}').unwrap();
    let mut evidence = real();
    for length in (0..=end).step_by(7) {
        evidence.collateral = whole[..length].to_vec();
        let refusal = at(&evidence, REAL_NOW).unwrap_err();
        assert!(
            matches!(refusal.code.class(), Class::Malformed | Class::Stale),
            "{refusal}"
        );
    }
}
