//! Genuine evidence, compared with reference values.

use attestation::sev_snp::{GuestPolicy, PlatformInfo, Product, ReferenceValues, Tcb};
use attestation::{Code, ReportData, SimulatedTee, Tee, Verifier};

use crate::vectors::{self, NOW, at, judge, listing, report_data};

#[test]
fn each_genuine_report_is_accepted_under_a_reference_that_lists_it() {
    for it in vectors::all() {
        let report = &it.evidence.report;
        let authentic = judge(&it.evidence).unwrap();
        assert_eq!(authentic.product(), it.product, "{}", it.name);
        assert_eq!(authentic.report().product, Some(it.product));
        assert_eq!(authentic.check_baseline(), Ok(()));
        let reference = listing(report, it.product, it.tcb);
        let claims = authentic
            .appraise(&reference, &report_data(report))
            .unwrap();
        assert_eq!(claims.tee, Tee::SevSnp);
        assert_eq!(claims.measurement, report[0x90..0xc0]);
        assert_eq!(claims.host_data.0, report[0xc0..0xe0]);
        assert_eq!(claims.platform, report[0x1a0..0x1e0]);
    }
}

#[test]
fn the_verifier_names_the_reference_value_that_matches() {
    let it = vectors::genoa_v3();
    let right = listing(&it.evidence.report, it.product, it.tcb);
    let wrong = ReferenceValues {
        measurement: [0; 48],
        ..right.clone()
    };
    let reference = attestation::ReferenceValues {
        snp: vec![wrong.clone(), right],
        ..attestation::ReferenceValues::default()
    };
    let data = report_data(&it.evidence.report);
    let evidence = attestation::Evidence::SevSnp(it.evidence);
    let verifier = Verifier::new(SimulatedTee::Refused);
    let result = verifier
        .appraise(&evidence, &data, &reference, at(NOW))
        .unwrap();
    assert_eq!(result.reference(), "snp[1]");

    let reference = attestation::ReferenceValues {
        snp: vec![wrong],
        ..attestation::ReferenceValues::default()
    };
    let refusals = verifier
        .appraise(&evidence, &data, &reference, at(NOW))
        .unwrap_err();
    let all: Vec<_> = refusals.iter().map(|(name, it)| (name, it.code)).collect();
    assert_eq!(all, [("snp[0]", Code::Measurement)]);
}

#[test]
fn a_genuine_report_of_vmpl_1_is_authentic_and_refused() {
    let evidence = vectors::genoa_v2_at_vmpl_1();
    let authentic = judge(&evidence).unwrap();
    assert_eq!(authentic.product(), Product::Genoa);
    assert_eq!(authentic.report().vmpl, 1);
    let codes = |refusals: Vec<attestation::Refusal>| -> Vec<Code> {
        refusals.iter().map(|it| it.code).collect()
    };
    assert_eq!(codes(authentic.check_baseline().unwrap_err()), [Code::Vmpl]);
    let tcb = Tcb {
        bootloader: 7,
        snp: 11,
        microcode: 62,
        ..Tcb::default()
    };
    let reference = listing(&evidence.report, Product::Genoa, tcb);
    let refusals = authentic.appraise(&reference, &report_data(&evidence.report));
    assert_eq!(codes(refusals.unwrap_err()), [Code::Vmpl]);
}

#[test]
fn a_reference_that_differs_in_one_value_refuses_with_that_value() {
    type Change = fn(&mut ReferenceValues);
    let cases: [(&str, Code, Change); 10] = [
        ("report.product", Code::Platform, |it| {
            it.product = Product::Genoa;
        }),
        ("report.measurement", Code::Measurement, |it| {
            it.measurement[47] ^= 1;
        }),
        ("report.policy.abi", Code::GuestPolicy, |it| {
            it.guest_policy.abi_minor += 1;
        }),
        ("report.policy.abi", Code::GuestPolicy, |it| {
            it.guest_policy.abi_major += 1;
            it.guest_policy.abi_minor = 0;
        }),
        ("report.policy.smt", Code::GuestPolicy, |it| {
            it.guest_policy.smt = false;
        }),
        ("report.policy.single_socket", Code::GuestPolicy, |it| {
            it.guest_policy.single_socket = true;
        }),
        ("report.platform_info.smt", Code::PlatformInfo, |it| {
            it.platform_info.smt = Some(false);
        }),
        ("report.platform_info.tsme", Code::PlatformInfo, |it| {
            it.platform_info.tsme = Some(true);
        }),
        (
            "report.platform_info.alias_check_complete",
            Code::PlatformInfo,
            |it| it.platform_info.alias_check_complete = Some(false),
        ),
        ("report.chip_id", Code::Platform, |it| {
            it.chip_ids = vec![[1; 64], [2; 64]];
        }),
    ];
    let it = vectors::milan_v3();
    let authentic = judge(&it.evidence).unwrap();
    let data = report_data(&it.evidence.report);
    for (field, code, change) in cases {
        let mut reference = listing(&it.evidence.report, it.product, it.tcb);
        change(&mut reference);
        let refusals = authentic.appraise(&reference, &data).unwrap_err();
        let all: Vec<_> = refusals
            .iter()
            .map(|it| (it.field.as_str(), it.code))
            .collect();
        assert_eq!(all, [(field, code)]);
    }
}

#[test]
fn the_report_data_of_another_session_is_refused() {
    let it = vectors::milan_v3();
    let reference = listing(&it.evidence.report, it.product, it.tcb);
    let mut data = report_data(&it.evidence.report);
    data.0[63] ^= 1;
    let refusals = judge(&it.evidence)
        .unwrap()
        .appraise(&reference, &data)
        .unwrap_err();
    let [refusal] = refusals.as_slice() else {
        panic!("{refusals:?}")
    };
    assert_eq!(refusal.code, Code::ReportData);
    assert_eq!(refusal.got, hex::encode(report_data(&it.evidence.report).0));
    assert_eq!(refusal.want, hex::encode(data.0));
}

#[test]
fn firmware_one_version_older_than_the_minimum_is_refused_in_each_component() {
    type Change = fn(&mut Tcb);
    let changes: [(&str, Change); 4] = [
        ("bootloader", |it| it.bootloader += 1),
        ("tee", |it| it.tee += 1),
        ("snp", |it| it.snp += 1),
        ("microcode", |it| it.microcode += 1),
    ];
    for it in vectors::all() {
        let authentic = judge(&it.evidence).unwrap();
        for (component, change) in changes {
            let mut minimum = it.tcb;
            change(&mut minimum);
            let reference = listing(&it.evidence.report, it.product, minimum);
            let refusals = authentic
                .appraise(&reference, &report_data(&it.evidence.report))
                .unwrap_err();
            let reported = format!("report.reported_tcb.{component}");
            assert!(
                refusals.iter().any(|it| it.field == reported),
                "{refusals:?}"
            );
            assert!(refusals.iter().all(|it| it.code == Code::TcbTooLow));
        }
    }
}

#[test]
fn all_mismatches_are_said_at_once() {
    let it = vectors::milan_v3();
    let reference = ReferenceValues {
        product: Product::Turin,
        measurement: [0; 48],
        minimum_tcb: Tcb {
            microcode: 255,
            fmc: Some(1),
            ..Tcb::default()
        },
        guest_policy: GuestPolicy {
            ciphertext_hiding: true,
            ..GuestPolicy::default()
        },
        platform_info: PlatformInfo {
            tio: Some(true),
            ..PlatformInfo::default()
        },
        chip_ids: vec![[0; 64]],
    };
    let refusals = judge(&it.evidence)
        .unwrap()
        .appraise(&reference, &ReportData([0; 64]))
        .unwrap_err();
    let fields: Vec<_> = refusals.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "report.report_data",
            "report.product",
            "report.measurement",
            "report.policy.smt",
            "report.policy.ciphertext_hiding",
            "report.platform_info.tio",
            "report.reported_tcb.microcode",
            "report.reported_tcb.fmc",
            "report.committed_tcb.microcode",
            "report.committed_tcb.fmc",
            "report.current_tcb.microcode",
            "report.current_tcb.fmc",
            "report.launch_tcb.microcode",
            "report.launch_tcb.fmc",
            "report.chip_id",
        ]
    );
}

#[test]
fn fields_are_shown_as_they_are() {
    let report = judge(&vectors::milan_v2().evidence).unwrap();
    let fields = report.report().fields();
    let field = |name| {
        let mut values = fields.iter().filter(|(known, _)| *known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert_eq!(values.next(), None, "{name} is twice");
        value
    };
    assert_eq!(field("version"), Some("2"));
    assert_eq!(field("product"), Some("Milan"));
    assert_eq!(field("policy"), Some("0x30000"));
    assert_eq!(field("policy.smt"), Some("true"));
    assert_eq!(
        field("reported_tcb"),
        Some("bootloader 3, tee 0, snp 8, microcode 115")
    );
    assert_eq!(field("current_version"), Some("1.52.4"));
    assert_eq!(field("key_info.signing_key"), Some("vcek"));
    assert_eq!(field("cpuid"), None, "version 2 has none");
    assert!(field("chip_id").unwrap().starts_with("d49554ec717f4e5b"));
    // Each name once, and no value over more than one line.
    for (name, value) in &fields {
        assert_eq!(field(name), Some(value.as_str()));
        assert!(!value.contains('\n'));
    }
    let unknown = attestation::sev_snp::Report::parse(&vectors::milan_v2().evidence.report);
    assert!(
        unknown
            .unwrap()
            .fields()
            .contains(&("reported_tcb", "0300000000000873".into())),
        "without the certificate the layout is unknown"
    );
}
