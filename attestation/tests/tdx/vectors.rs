//! Real quotes, with the verdicts that `vectors/README.md` gives them.

use attestation::tdx::{self, Quote, Root, TcbStatus};
use attestation::{Class, Code, Digest, ReportData, Tee};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::support::{
    REAL_NOW, TD_ATTRIBUTES, assert_refused, at, evidence, listing, real, unix, vector,
};

const OUTDATED_NOW: OffsetDateTime = datetime!(2026-02-18 11:58:51 UTC);
const QUOTES: [&str; 6] = [
    "tdx/dcap-qvl/tdx_quote",
    "tdx/dcap-qvl/tdx_quote_outdated",
    "tdx/dcap-qvl/tdx-quote.hex",
    "tdx/dcap-qvl/quote-from-tappd.hex",
    "tdx/go-tdx-guest/cos-113-tdx-quote.dat",
    "tdx/go-tdx-guest/tdx_prod_quote_SPR_E4.dat",
];

#[test]
fn a_real_quote_is_accepted_with_its_collateral() {
    let evidence = real();
    let quote = tdx::authenticate(&evidence, &Root::intel(), unix(REAL_NOW)).unwrap();
    assert_eq!(quote.tcb_status(), TcbStatus::UpToDate);
    assert_eq!(quote.fmspc(), [0xb0, 0xc0, 0x6f, 0, 0, 0]);
    assert_eq!(quote.tcb_evaluation_data_number(), 17);
    assert!(quote.advisories().is_empty());
    quote.check_baseline().unwrap();

    let report = quote.quote().report();
    let mut reference = listing(quote.quote());
    reference.td_attributes = None;
    reference.tcb_statuses = vec![TcbStatus::UpToDate];
    reference.ppids = vec![*quote.ppid()];
    reference.min_tcb_evaluation_data_number = Some(17);
    let claims = quote
        .appraise(&reference, &ReportData(report.report_data))
        .unwrap();
    assert_eq!(claims.tee, Tee::Tdx);
    assert_eq!(claims.measurement, report.mr_td);
    assert_eq!(claims.measurement[..], evidence.quote[48 + 136..48 + 184]);
    assert_eq!(claims.host_data, Digest([0; 32]));
    assert_eq!(claims.platform, quote.ppid());
}

#[test]
fn collateral_gives_the_verdicts_of_the_readme() {
    let quote = "tdx/dcap-qvl/tdx_quote";
    let outdated = "tdx/dcap-qvl/tdx_quote_outdated";
    let collateral = "tdx/dcap-qvl/tdx_quote_collateral.json";
    let outdated_collateral = "tdx/dcap-qvl/tdx_quote_outdated_collateral.json";
    let sgx_collateral = "sgx/sgx_quote_collateral.json";
    let refusals = [
        (outdated, outdated_collateral, OUTDATED_NOW, Code::TcbStatus),
        (quote, sgx_collateral, REAL_NOW, Code::Collateral),
        (quote, outdated_collateral, OUTDATED_NOW, Code::Collateral),
        (quote, outdated_collateral, REAL_NOW, Code::Collateral),
        (outdated, collateral, REAL_NOW, Code::Collateral),
        ("sgx/sgx_quote", sgx_collateral, REAL_NOW, Code::WrongTee),
        ("sgx/sgx_quote", collateral, REAL_NOW, Code::WrongTee),
    ];
    for (quote, collateral, now, code) in refusals {
        assert_refused(at(&evidence(quote, Some(collateral)), now), code);
    }
}

#[test]
fn collateral_holds_from_its_issue_to_its_next_update_both_included() {
    let from = datetime!(2025-06-19 10:32:27 UTC);
    let until = datetime!(2025-07-19 10:00:34 UTC);
    let second = Duration::SECOND;
    at(&real(), from).unwrap();
    at(&real(), until).unwrap();
    for (now, code, field) in [
        (from - second, Code::NotYetValid, "collateral.qe_identity"),
        (until + second, Code::Expired, "collateral.pck_crl"),
    ] {
        let refusal = at(&real(), now).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_str()), (code, field));
    }
    let outdated = evidence(
        "tdx/dcap-qvl/tdx_quote_outdated",
        Some("tdx/dcap-qvl/tdx_quote_outdated_collateral.json"),
    );
    let until = datetime!(2026-03-20 10:42:15 UTC);
    assert_refused(at(&outdated, until + second), Code::Expired);
    for now in [OffsetDateTime::UNIX_EPOCH, datetime!(9999-01-01 0:00 UTC)] {
        let refusal = at(&real(), now).unwrap_err();
        assert_eq!(refusal.code.class(), Class::Stale, "{refusal}");
    }
}

#[test]
fn a_quote_without_collateral_is_refused_as_such() {
    for name in &QUOTES[..5] {
        assert_refused(at(&evidence(name, None), REAL_NOW), Code::Missing);
    }
}

#[test]
fn a_quote_with_something_behind_it_is_refused() {
    let name = "tdx/go-tdx-guest/tdx_prod_quote_SPR_E4.dat";
    assert_refused(at(&evidence(name, None), REAL_NOW), Code::Malformed);
    let mut padded = real();
    padded.quote.extend_from_slice(&[0; 100]);
    at(&padded, REAL_NOW).unwrap();
    padded.quote.push(1);
    assert_refused(at(&padded, REAL_NOW), Code::Malformed);
}

#[test]
fn every_real_quote_is_shown_without_collateral() {
    for name in QUOTES {
        let bytes = vector(name);
        let quote = Quote::parse(&bytes).unwrap();
        let fields = quote.fields();
        let names: std::collections::HashSet<_> = fields.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), fields.len(), "{name}: a field twice");
        let field = |wanted| &fields.iter().find(|(name, _)| *name == wanted).unwrap().1;
        let body = if bytes[0] == 5 { 54 } else { 48 };
        let report_data = hex::encode(&bytes[body + 520..body + 584]);
        assert_eq!(field("td.report_data"), &report_data);
        let mr_td = hex::encode(&bytes[body + 136..body + 184]);
        assert_eq!(field("td.mr_td"), &mr_td);
    }
}

#[test]
fn an_authentic_quote_shows_what_intel_says() {
    let quote = tdx::authenticate(&real(), &Root::intel(), unix(REAL_NOW)).unwrap();
    let fields = quote.fields();
    for wanted in [
        ("tcb.status", "UpToDate"),
        ("tcb.evaluation_data_number", "17"),
        ("collateral.expires", "2025-07-19T10:00:35Z"),
        ("pck.fmspc", "b0c06f000000"),
        ("pck.smt_enabled", "true"),
        ("qe.tcb_status", "UpToDate"),
    ] {
        assert!(
            fields
                .iter()
                .any(|(name, value)| (*name, value.as_str()) == wanted),
            "{wanted:?} in {fields:?}"
        );
    }
}

#[test]
fn a_quote_of_another_version_or_tee_is_refused() {
    let refusals = [
        (0, 0, Code::Version),
        (0, 3, Code::Version),
        (0, 6, Code::Version),
        (1, 1, Code::Version),
        (2, 3, Code::Version),
        (4, 0, Code::WrongTee),
        (4, 0x80, Code::WrongTee),
        (7, 1, Code::WrongTee),
        (12, 0, Code::Malformed),
    ];
    for (offset, value, code) in refusals {
        let mut changed = real();
        changed.quote[offset] = value;
        assert_refused(at(&changed, REAL_NOW), code);
    }
}

#[test]
fn evidence_of_another_tee_is_refused_as_such() {
    for name in [
        "snp/azure/derived/genoa-v3-report.bin",
        "snp/azure/derived/milan-v3-v1-report.bin",
        "sgx/sgx_quote",
    ] {
        let refusal = Quote::parse(&vector(name)).unwrap_err();
        assert_eq!(refusal.code, Code::WrongTee, "{name}: {refusal}");
    }
    let refusal = Quote::parse(&vector("snp/trustee/test-report.bin")).unwrap_err();
    assert_eq!(refusal.code.class(), Class::Malformed, "{refusal}");
}

#[test]
fn a_debug_bit_is_named_before_anything_else() {
    for bit in [0x01, 0x10, 0x20, 0x40] {
        let mut changed = real();
        changed.quote[TD_ATTRIBUTES] |= bit;
        assert_refused(at(&changed, REAL_NOW), Code::Debug);
        changed.collateral.clear();
        assert_refused(at(&changed, REAL_NOW), Code::Debug);
    }
}

#[test]
fn the_root_is_intels() {
    let der = vector("tdx/intel_sgx_root_ca.der");
    assert_eq!(
        Digest::of(&der).to_string()[..12],
        *"44a0196b2b99",
        "as vectors/README.md says"
    );
    crate::support::verdict(&real(), &Root::of(der), REAL_NOW).unwrap();
    let (_, root) = x509_parser::parse_x509_certificate(INTEL).unwrap();
    root.verify_signature(None).unwrap();
}

const INTEL: &[u8] = include_bytes!("../../src/tdx/intel-sgx-root-ca.der");

#[test]
fn a_root_that_is_no_certificate_is_refused() {
    let verdict = crate::support::verdict(&real(), &Root::of(*b"root"), REAL_NOW);
    assert_refused(verdict, Code::Chain);
}
