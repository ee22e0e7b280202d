//! Chains, revocation and statements of a simulated Intel.

use attestation::tdx::{self, Root};
use attestation::{Code, Refusal};
use serde_json::{Value, json};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::certificates::{Authorities, PCK_CA, Pck, Platform, ROOT, Signer, authority, key};
use crate::simulated_intel::{Intel, NOW, sign};
use crate::support::{assert_refused, unix};

fn authenticate(intel: &Intel) -> Result<(), Refusal> {
    at(intel, NOW)
}

fn at(intel: &Intel, now: OffsetDateTime) -> Result<(), Refusal> {
    tdx::authenticate(&intel.evidence(), &intel.root(), unix(now)).map(|_| ())
}

fn with_collateral(intel: &Intel, change: impl FnOnce(&mut Value)) -> Result<(), Refusal> {
    let mut collateral = intel.collateral();
    change(&mut collateral);
    let mut evidence = intel.evidence();
    evidence.collateral = serde_json::to_vec(&collateral).unwrap();
    tdx::authenticate(&evidence, &intel.root(), unix(NOW)).map(|_| ())
}

#[test]
fn another_root_with_the_same_name_is_refused() {
    let (intel, other) = (Intel::new(), Intel::new());
    let evidence = intel.evidence();
    for root in [other.root(), Root::intel()] {
        let refused = tdx::authenticate(&evidence, &root, unix(NOW));
        assert_refused(refused.map(|_| ()), Code::Chain);
    }
}

#[test]
fn evidence_of_another_platform_in_the_same_model_is_refused() {
    let mut intel = Intel::new();
    let quote = intel.quote();
    intel.pck = Pck::of(&Platform::default(), &intel.authorities.pck_ca);
    let mut evidence = intel.evidence();
    evidence.quote = crate::support::with_pck_chain(&quote, intel.pck_chain().as_bytes());
    let refused = tdx::authenticate(&evidence, &intel.root(), unix(NOW));
    assert_refused(refused.map(|_| ()), Code::Signature);
}

#[test]
fn a_revoked_certificate_is_refused() {
    let pck = Intel::new().pck.serial;
    for serial in [pck, PCK_CA, Intel::tcb_signer_serial(), ROOT] {
        assert_refused(authenticate(&Intel::new().revoke(serial)), Code::Revoked);
    }
    authenticate(&Intel::new().revoke(99)).unwrap();
}

#[test]
fn a_revocation_list_that_is_not_current_is_refused() {
    let second = Duration::SECOND;
    for (dates, code) in [
        ((NOW + second, NOW + second * 9), Code::NotYetValid),
        ((NOW - second * 9, NOW - second), Code::Expired),
    ] {
        let mut intel = Intel::new();
        intel.authorities.crl_dates = dates;
        assert_refused(authenticate(&intel), code);
    }
}

#[test]
fn a_revocation_list_of_another_authority_is_refused() {
    let intel = Intel::new();
    let other = Authorities::new();
    for (field, list) in [
        ("root_ca_crl", other.root_crl()),
        ("pck_crl", other.pck_crl()),
        ("root_ca_crl", intel.authorities.pck_crl()),
        ("pck_crl", intel.authorities.root_crl()),
    ] {
        let refused = with_collateral(&intel, |json| json[field] = hex::encode(list).into());
        assert_refused(refused, Code::Collateral);
    }
}

#[test]
fn an_expired_platform_certificate_is_refused() {
    let mut intel = Intel::new();
    let platform = Platform {
        not_after: NOW - Duration::SECOND,
        ..Platform::default()
    };
    intel.pck = Pck::of(&platform, &intel.authorities.pck_ca);
    assert_refused(authenticate(&intel), Code::Expired);
}

#[test]
fn dates_of_each_statement_are_kept_to_the_second() {
    let second = Duration::SECOND;
    let from = datetime!(2026-05-25 0:00 UTC);
    let until = datetime!(2026-06-19 0:00 UTC);
    let intel = Intel::new();
    at(&intel, from).unwrap();
    at(&intel, until).unwrap();
    assert_refused(at(&intel, from - second), Code::NotYetValid);
    assert_refused(at(&intel, until + second), Code::Expired);
    for (field, value, code) in [
        ("issueDate", "2026-06-01T00:00:01Z", Code::NotYetValid),
        ("nextUpdate", "2026-05-31T23:59:59Z", Code::Expired),
        ("nextUpdate", "soon", Code::Collateral),
    ] {
        let mut intel = Intel::new();
        intel.tcb_info[field] = json!(value);
        assert_refused(authenticate(&intel), code);
        let mut intel = Intel::new();
        intel.qe_identity[field] = json!(value);
        assert_refused(authenticate(&intel), code);
    }
}

#[test]
fn collateral_of_another_platform_is_refused() {
    for (field, value) in [
        ("fmspc", json!("50806F010204")),
        ("pceId", json!("0001")),
        ("id", json!("SGX")),
        ("version", json!(2)),
    ] {
        let mut intel = Intel::new();
        intel.tcb_info[field] = value;
        assert_refused(authenticate(&intel), Code::Collateral);
    }
    for (field, value) in [("id", json!("QE")), ("version", json!(4))] {
        let mut intel = Intel::new();
        intel.qe_identity[field] = value;
        assert_refused(authenticate(&intel), Code::Collateral);
    }
}

#[test]
fn statements_that_intel_did_not_sign_are_refused() {
    let intel = Intel::new();
    for field in ["tcb_info", "qe_identity"] {
        let chain = format!("{field}_issuer_chain");
        let signature = format!("{field}_signature");
        let resign = |json: &mut Value, signer: &rcgen::KeyPair, certificates: String| {
            let text = json[field].as_str().unwrap().to_owned();
            json[&signature] = hex::encode(sign(signer, text.as_bytes())).into();
            json[&chain] = certificates.into();
        };
        let other = Authorities::new();
        let refused = with_collateral(&intel, |json| {
            let signer = &other.tcb_signer;
            resign(json, &signer.key, other.chain(&signer.certificate));
        });
        assert_refused(refused, Code::Collateral);
        let refused = with_collateral(&intel, |json| {
            resign(json, &intel.pck.key, intel.pck_chain());
        });
        assert_refused(refused, Code::Collateral);
        let refused = with_collateral(&intel, |json| {
            let signer = Signer::new("Signer", 50, &intel.authorities.pck_ca);
            let pck_ca = intel.authorities.pck_ca.pem();
            let chain = format!("{}{pck_ca}", signer.certificate);
            resign(json, &signer.key, chain);
        });
        assert_refused(refused, Code::Collateral);
        let refused = with_collateral(&intel, |json| {
            resign(json, &key(), json[&chain].as_str().unwrap().to_owned());
        });
        assert_refused(refused, Code::Collateral);
    }
}

#[test]
fn an_intermediate_that_is_no_authority_is_refused() {
    let mut intel = Intel::new();
    let mut params = authority("Simulated SGX PCK Platform CA", PCK_CA);
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let root = &intel.authorities.root;
    let fake = rcgen::CertifiedIssuer::signed_by(params, key(), root).unwrap();
    intel.pck = Pck::of(&Platform::default(), &fake);
    intel.authorities.pck_ca = fake;
    assert_refused(authenticate(&intel), Code::Chain);
}

#[test]
fn a_chain_may_come_with_the_collateral() {
    let mut intel = Intel::new();
    intel.certification = 3;
    assert_refused(authenticate(&intel), Code::Missing);
    let chain = intel.pck_chain();
    with_collateral(&intel, |json| json["pck_certificate_chain"] = chain.into()).unwrap();
    for (chain, code) in [
        (String::new(), Code::Malformed),
        (intel.pck_chain().repeat(9), Code::Malformed),
        (intel.pck.certificate.clone(), Code::Chain),
        (intel.authorities.root.pem(), Code::Signature),
    ] {
        let refused = with_collateral(&intel, |json| json["pck_certificate_chain"] = chain.into());
        assert_refused(refused, code);
    }
}

#[test]
fn a_platform_certificate_without_intels_extension_is_refused() {
    let mut intel = Intel::new();
    let plain = Signer::new(
        "Simulated SGX PCK Certificate",
        4,
        &intel.authorities.pck_ca,
    );
    intel.pck.certificate = plain.certificate;
    intel.pck.key = plain.key;
    assert_refused(authenticate(&intel), Code::Chain);
}
