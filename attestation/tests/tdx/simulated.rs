//! Guests and platforms, as a simulated Intel vouches for them.

use attestation::tdx::{self, AuthenticQuote, Quote, TcbStatus};
use attestation::{Claims, Code, Digest, Refusal, ReportData};
use serde_json::json;

use crate::certificates::{Pck, Platform};
use crate::simulated_intel::{FMSPC, Intel, NOW, PPID, level, module};
use crate::support::{assert_refused, listing, unix, verdict};

/// Offsets in the guest's report.
const TEE_TCB_SVN: usize = 0;
const MR_SIGNER_SEAM: usize = 64;
const TD_ATTRIBUTES: usize = 120;
const MR_CONFIG_ID: usize = 184;
const TEE_TCB_SVN_2: usize = 584;
const MR_SERVICE_TD: usize = 600;
const VMID: usize = 648;
const INIT_SERVICE_TD_HASH: usize = 729;
const CUR_SERVICE_TD_HASH: usize = 829;

fn authenticate(intel: &Intel) -> Result<AuthenticQuote, Refusal> {
    tdx::authenticate(&intel.evidence(), &intel.root(), unix(NOW))
}

fn appraise(
    quote: &AuthenticQuote,
    change: impl FnOnce(&mut tdx::ReferenceValues),
) -> Result<Claims, Vec<Refusal>> {
    let mut reference = listing(quote.quote());
    change(&mut reference);
    quote.appraise(&reference, &ReportData(quote.quote().report().report_data))
}

fn codes(appraisal: Result<Claims, Vec<Refusal>>) -> Vec<(Code, String)> {
    let refusals = appraisal.expect_err("refused");
    refusals.into_iter().map(|it| (it.code, it.field)).collect()
}

#[test]
fn a_quote_is_accepted_under_the_root_that_signed_it() {
    let intel = Intel::new();
    let verdict = verdict(&intel.evidence(), &intel.root(), NOW).unwrap();
    assert_eq!(verdict.status, TcbStatus::UpToDate);
    assert_eq!(verdict.claims.platform, PPID);
    let quote = authenticate(&intel).unwrap();
    assert_eq!(quote.fmspc(), FMSPC);
    assert_eq!(quote.tcb_evaluation_data_number(), 18);
}

#[test]
fn every_body_is_accepted() {
    for kind in [2, 3, 4] {
        let intel = Intel::new().version_5(kind);
        let verdict = verdict(&intel.evidence(), &intel.root(), NOW).unwrap();
        let added = verdict.report.v1_5.as_ref();
        assert_eq!(added.is_some(), kind > 2);
        assert_eq!(added.is_some_and(|it| it.extended.is_some()), kind > 3);
    }
}

#[test]
fn a_body_that_lies_about_itself_is_refused() {
    let quote = Intel::new().version_5(3).quote();
    for (offset, value, code) in [
        (48, 1, Code::WrongTee),
        (48, 2, Code::Malformed),
        (48, 4, Code::Malformed),
        (48, 5, Code::Version),
        (50, 0, Code::Malformed),
    ] {
        let mut changed = quote.clone();
        changed[offset] = value;
        assert_refused(Quote::parse(&changed), code);
    }
}

#[test]
fn every_flipped_bit_of_a_1_5_report_is_refused() {
    let intel = Intel::new().version_5(4);
    let mut evidence = intel.evidence();
    for bit in 0..(48 + 6 + 885) * 8 {
        evidence.quote[bit / 8] ^= 1 << (bit % 8);
        verdict(&evidence, &intel.root(), NOW).expect_err("refused");
        evidence.quote[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_truncated_1_5_quote_is_refused() {
    let intel = Intel::new().version_5(4);
    let mut evidence = intel.evidence();
    while evidence.quote.pop().is_some() {
        let refused = tdx::authenticate(&evidence, &intel.root(), unix(NOW));
        assert_refused(refused, Code::Malformed);
    }
}

#[test]
fn a_guest_under_debugging_is_refused_whoever_signs() {
    for attributes in [0x01, 0x10, 0x20, 0x40, 0x71] {
        for version_5 in [false, true] {
            let mut intel = Intel::new().report(TD_ATTRIBUTES, &[attributes]);
            if version_5 {
                intel = intel.version_5(3);
            }
            assert_refused(authenticate(&intel), Code::Debug);
        }
    }
}

#[test]
fn a_guest_with_unsafe_attributes_is_refused() {
    for attributes in [
        [0x02, 0, 0, 0x10, 0, 0, 0, 0],
        [0x80, 0, 0, 0x10, 0, 0, 0, 0],
        [0, 1, 0, 0x10, 0, 0, 0, 0],
        [0, 0, 0, 0x10, 1, 0, 0, 0],
        [0, 0, 0, 0x30, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0x40, 0, 0, 0, 0],
    ] {
        let intel = Intel::new().report(TD_ATTRIBUTES, &attributes);
        assert_refused(authenticate(&intel), Code::GuestPolicy);
    }
}

#[test]
fn attributes_beyond_the_usual_must_be_named() {
    let pks = [0, 0, 0, 0x50, 0, 0, 0, 0x80];
    let quote = authenticate(&Intel::new().report(TD_ATTRIBUTES, &pks)).unwrap();
    appraise(&quote, |reference| reference.td_attributes = Some(pks)).unwrap();
    for other in [None, Some([0, 0, 0, 0x50, 0, 0, 0, 0])] {
        let appraisal = appraise(&quote, |reference| reference.td_attributes = other);
        let expected = (Code::GuestPolicy, "td.td_attributes".into());
        assert_eq!(codes(appraisal), [expected]);
    }
    let usual = authenticate(&Intel::new()).unwrap();
    appraise(&usual, |reference| reference.td_attributes = None).unwrap();
}

#[test]
fn a_guest_with_company_is_refused_even_without_reference_values() {
    for (kind, offset, field) in [
        (3, MR_SERVICE_TD, "td.mr_service_td"),
        (4, MR_SERVICE_TD, "td.mr_service_td"),
        (4, INIT_SERVICE_TD_HASH, "td.init_service_td_hash"),
        (4, CUR_SERVICE_TD_HASH, "td.cur_service_td_hash"),
        (4, VMID, "td.vmid"),
    ] {
        let intel = Intel::new().version_5(kind).report(offset, &[1]);
        let quote = authenticate(&intel).unwrap();
        let expected = (Code::GuestPolicy, field.to_owned());
        let baseline = quote.check_baseline().unwrap_err();
        assert_eq!((baseline[0].code, baseline[0].field.clone()), expected);
        assert_eq!(codes(appraise(&quote, |_| ())), [expected]);
    }
}

#[test]
fn each_status_is_accepted_only_where_it_is_listed() {
    for status in &TcbStatus::ALL[..6] {
        let quote = authenticate(&Intel::new().status(status.as_str())).unwrap();
        assert_eq!(quote.tcb_status(), *status);
        assert_eq!(quote.advisories(), ["INTEL-SA-00001"]);
        quote.check_baseline().unwrap();
        appraise(&quote, |it| it.tcb_statuses = vec![*status]).unwrap();
        let others = TcbStatus::ALL.iter().filter(|other| *other != status);
        let others: Vec<_> = others.copied().collect();
        for listed in [vec![], others] {
            let refusals = appraise(&quote, |it| it.tcb_statuses = listed).unwrap_err();
            assert_eq!(refusals.len(), 1);
            assert_eq!(refusals[0].code, Code::TcbStatus);
            assert_eq!(refusals[0].got, format!("{status} (INTEL-SA-00001)"));
        }
    }
}

#[test]
fn a_revoked_platform_module_or_quoting_enclave_is_never_accepted() {
    let platform = Intel::new().status("Revoked");
    let mut enclave = Intel::new();
    enclave.qe_identity["tcbLevels"][0]["tcbStatus"] = json!("Revoked");
    let module = with_module(Intel::new(), "Revoked");
    for intel in [platform, enclave, module] {
        assert_refused(authenticate(&intel), Code::TcbStatus);
    }
}

#[test]
fn an_outdated_module_or_quoting_enclave_makes_the_platform_outdated() {
    let mut enclave = Intel::new();
    enclave.qe_identity["tcbLevels"][0]["tcbStatus"] = json!("OutOfDate");
    let module = with_module(Intel::new(), "OutOfDate");
    for intel in [enclave, module] {
        let quote = authenticate(&intel).unwrap();
        assert_eq!(quote.tcb_status(), TcbStatus::OutOfDate);
    }
    let quote = authenticate(&with_module(Intel::new(), "UpToDate")).unwrap();
    assert_eq!(quote.tcb_status(), TcbStatus::UpToDate);
}

/// A guest on version 1 of the TDX module, on which Intel gives this judgement.
fn with_module(intel: Intel, status: &str) -> Intel {
    let mut intel = intel.report(TEE_TCB_SVN, &[6, 1]);
    let mut identity = module();
    identity["id"] = json!("TDX_01");
    identity["tcbLevels"] = json!([{
        "tcb": { "isvsvn": 6 },
        "tcbDate": "2026-01-01T00:00:00Z",
        "tcbStatus": status,
    }]);
    intel.tcb_info["tdxModuleIdentities"] = json!([identity]);
    intel
}

#[test]
fn a_module_updated_under_the_guest_advises_to_relaunch() {
    let advised = [
        ("UpToDate", TcbStatus::TdRelaunchAdvised),
        (
            "ConfigurationNeeded",
            TcbStatus::TdRelaunchAdvisedConfigurationNeeded,
        ),
    ];
    for (now, status) in advised {
        let mut intel = Intel::new().version_5(3).report(TEE_TCB_SVN_2, &[5]);
        intel.tcb_info["tcbLevels"] = json!([level(5, now, &[]), level(0, "OutOfDate", &[])]);
        let quote = authenticate(&intel).unwrap();
        assert_eq!(quote.tcb_status(), status);
        let only_up_to_date = |it: &mut tdx::ReferenceValues| {
            it.tcb_statuses = vec![TcbStatus::UpToDate];
        };
        let expected = (Code::TcbStatus, "tcb.status".into());
        assert_eq!(codes(appraise(&quote, only_up_to_date)), [expected]);
    }
}

#[test]
fn firmware_below_every_level_is_refused() {
    let mut module = with_module(Intel::new(), "UpToDate");
    module.tcb_info["tdxModuleIdentities"][0]["tcbLevels"][0]["tcb"]["isvsvn"] = json!(7);
    let mut unknown_module = with_module(Intel::new(), "UpToDate");
    unknown_module.tcb_info["tdxModuleIdentities"][0]["id"] = json!("TDX_03");
    let mut platform = Intel::new();
    platform.tcb_info["tcbLevels"] = json!([level(1, "UpToDate", &[])]);
    let mut enclave = Intel::new();
    enclave.qe_identity["tcbLevels"][0]["tcb"]["isvsvn"] = json!(6);
    let current = Intel::new().version_5(3).report(TEE_TCB_SVN, &[1]);
    let mut current = current.report(TEE_TCB_SVN_2, &[0]);
    current.tcb_info["tcbLevels"] = json!([level(1, "UpToDate", &[])]);
    for intel in [module, unknown_module, platform, enclave, current] {
        assert_refused(authenticate(&intel), Code::TcbStatus);
    }
}

#[test]
fn a_module_that_intel_did_not_sign_is_refused() {
    let intel = Intel::new().report(MR_SIGNER_SEAM, &[1]);
    assert_refused(authenticate(&intel), Code::Endorsement);
    let intel = Intel::new().report(MR_SIGNER_SEAM + 48, &[1]);
    assert_refused(authenticate(&intel), Code::Endorsement);
}

#[test]
fn a_quoting_enclave_that_intel_does_not_name_is_refused() {
    for (offset, value) in [(128, 0xac), (256, 3), (16, 1), (48, 0x13), (50, 1)] {
        let mut intel = Intel::new();
        intel.qe_report[offset] = value;
        assert_refused(authenticate(&intel), Code::Collateral);
    }
}

#[test]
fn the_policys_hash_is_the_first_32_bytes_of_mrconfigid() {
    let quote = authenticate(&Intel::new().report(MR_CONFIG_ID, &[8; 32])).unwrap();
    let claims = appraise(&quote, |_| ()).unwrap();
    assert_eq!(claims.host_data, Digest([8; 32]));
    for offset in 32..48 {
        let intel = Intel::new().report(MR_CONFIG_ID + offset, &[1]);
        let quote = authenticate(&intel).unwrap();
        let expected = (Code::HostData, "td.mr_config_id".into());
        assert_eq!(codes(appraise(&quote, |_| ())), [expected]);
    }
}

#[test]
fn a_platform_is_accepted_only_where_its_ppid_is_listed() {
    let quote = authenticate(&Intel::new()).unwrap();
    appraise(&quote, |it| it.ppids = vec![[1; 16], PPID]).unwrap();
    let expected = (Code::Platform, "pck.ppid".into());
    assert_eq!(
        codes(appraise(&quote, |it| it.ppids = vec![[1; 16]])),
        [expected]
    );
}

#[test]
fn collateral_below_the_minimum_evaluation_is_refused() {
    let mut intel = Intel::new();
    intel.qe_identity["tcbEvaluationDataNumber"] = json!(17);
    let quote = authenticate(&intel).unwrap();
    assert_eq!(quote.tcb_evaluation_data_number(), 17);
    let minimum = |number| {
        appraise(&quote, |it| {
            it.min_tcb_evaluation_data_number = Some(number);
        })
    };
    minimum(17).unwrap();
    let expected = (Code::Expired, "tcb.evaluation_data_number".into());
    assert_eq!(codes(minimum(18)), [expected]);
}

#[test]
fn a_platforms_configuration_is_compared_where_demanded() {
    let smt = (Code::PlatformInfo, "pck.smt_enabled".to_owned());
    let dynamic = (Code::PlatformInfo, "pck.dynamic_platform".to_owned());
    for (configuration, expected) in [
        (Some([false, true, false]), vec![]),
        (Some([true, true, false]), vec![dynamic.clone()]),
        (Some([false, true, true]), vec![smt.clone()]),
        (Some([true, true, true]), vec![smt.clone(), dynamic.clone()]),
        (None, vec![smt, dynamic]),
    ] {
        let mut intel = Intel::new();
        let platform = Platform {
            configuration,
            ..Platform::default()
        };
        intel.pck = Pck::of(&platform, &intel.authorities.pck_ca);
        let quote = authenticate(&intel).unwrap();
        appraise(&quote, |_| ()).unwrap();
        let appraisal = appraise(&quote, |it| {
            it.smt_disabled = true;
            it.static_platform = true;
        });
        assert_eq!(
            appraisal.map_or_else(|it| codes(Err(it)), |_| vec![]),
            expected
        );
    }
}

#[test]
fn every_mismatch_is_named() {
    let quote = authenticate(&Intel::new().status("OutOfDate")).unwrap();
    let mut reference = listing(quote.quote());
    reference.mr_td[0] ^= 1;
    for rtmr in &mut reference.rtmrs {
        rtmr[47] ^= 1;
    }
    reference.mr_seam[0] ^= 1;
    reference.xfam[0] ^= 1;
    reference.td_attributes = Some([0; 8]);
    reference.tcb_statuses = vec![TcbStatus::UpToDate];
    reference.min_tcb_evaluation_data_number = Some(19);
    reference.smt_disabled = true;
    reference.static_platform = true;
    reference.ppids = vec![[0; 16]];
    let refusals = quote.appraise(&reference, &ReportData([1; 64]));
    let expected = [
        (Code::ReportData, "td.report_data"),
        (Code::Measurement, "td.mr_td"),
        (Code::Measurement, "td.rtmr0"),
        (Code::Measurement, "td.rtmr1"),
        (Code::Measurement, "td.rtmr2"),
        (Code::Measurement, "td.rtmr3"),
        (Code::Measurement, "td.mr_seam"),
        (Code::GuestPolicy, "td.xfam"),
        (Code::GuestPolicy, "td.td_attributes"),
        (Code::TcbStatus, "tcb.status"),
        (Code::Expired, "tcb.evaluation_data_number"),
        (Code::PlatformInfo, "pck.smt_enabled"),
        (Code::PlatformInfo, "pck.dynamic_platform"),
        (Code::Platform, "pck.ppid"),
    ];
    assert_eq!(
        codes(refusals),
        expected.map(|(code, field)| (code, field.to_owned()))
    );
}

#[test]
fn one_changed_byte_of_the_report_data_is_refused() {
    let quote = authenticate(&Intel::new()).unwrap();
    let reference = listing(quote.quote());
    for byte in 0..64 {
        let mut report_data = ReportData(quote.quote().report().report_data);
        report_data.0[byte] ^= 0x80;
        let expected = (Code::ReportData, "td.report_data".into());
        assert_eq!(codes(quote.appraise(&reference, &report_data)), [expected]);
    }
}

#[test]
fn the_other_form_of_a_signature_changes_no_claim() {
    let intel = Intel::new();
    let evidence = intel.evidence();
    let accepted = verdict(&evidence, &intel.root(), NOW).unwrap();
    let s = crate::support::SIGNATURE + 32..crate::support::SIGNATURE + 64;
    let mut other = evidence.clone();
    let negated = negate(&evidence.quote[s.clone()]);
    other.quote[s].copy_from_slice(&negated);
    assert_ne!(other.quote, evidence.quote);
    assert_eq!(verdict(&other, &intel.root(), NOW).unwrap(), accepted);
}

/// The order of P-256 less `s`.
fn negate(s: &[u8]) -> [u8; 32] {
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let order = hex::decode(order).unwrap();
    let mut difference = [0; 32];
    let mut borrow = 0;
    for digit in (0..32).rev() {
        let value = i16::from(order[digit]) - i16::from(s[digit]) - borrow;
        borrow = i16::from(value < 0);
        difference[digit] = u8::try_from(value.rem_euclid(256)).unwrap();
    }
    difference
}
