//! Which program runs: evidence against reference values.

use serde_json::{Value, json};

use crate::run::{Temporary, accepted, evidence, refused};

const REPORT: &str = "--tee sev-snp --at 2026-01-01T00:00:00Z \
    --evidence snp/azure/derived/milan-v3-v1-report.bin \
    --certs snp/azure/derived/milan-v3-v1-vcek.der";
const QUOTE: &str = "--tee tdx --at 2025-06-20T00:00:00Z --evidence tdx/dcap-qvl/tdx_quote \
    --collateral tdx/dcap-qvl/tdx_quote_collateral.json";

fn fields(arguments: &str) -> Value {
    accepted(arguments)["fields"].take()
}

/// Reference values that list the report.
fn snp() -> Value {
    let fields = fields(REPORT);
    json!({
        "ProductName": "Milan",
        "TrustedMeasurement": fields["measurement"],
        "MinimumTCB": {
            "BootloaderVersion": 4, "TEEVersion": 0, "SNPVersion": 24, "MicrocodeVersion": 219
        },
        "GuestPolicy": { "ABIMajor": 0, "ABIMinor": 31, "SMT": true },
        "AllowedChipIDs": [fields["chip_id"]],
    })
}

/// Reference values that list the quote.
fn tdx() -> Value {
    let fields = fields(QUOTE);
    let rtmrs: Vec<_> = (0..4)
        .map(|it| fields[format!("td.rtmr{it}")].clone())
        .collect();
    json!({
        "MrTd": fields["td.mr_td"],
        "MrSeam": fields["td.mr_seam"],
        "Rtmrs": rtmrs,
        "Xfam": fields["td.xfam"],
        "AllowedPIIDs": [fields["pck.ppid"]],
        "MinTCBEvaluationDataNumber": 17,
    })
}

/// A manifest in which they are the only ones.
fn manifest(reference_values: &Value) -> Value {
    json!({
        "Policies": { "c0".repeat(32): { "SANs": ["coordinator"], "Role": "coordinator" } },
        "ReferenceValues": reference_values,
        // RSA, 2048 bits, of nobody.
        "SeedshareOwnerPubKeys": [format!("3082010a0282010100{}0203010001", "c1".repeat(256))],
    })
}

#[track_caller]
fn refusals(arguments: &str, reference: &Value) -> Vec<(String, String, String)> {
    let file = Temporary::new(reference.to_string());
    let answer = refused(&format!("{arguments} --reference {file}"));
    let all = answer["refusals"].as_array().unwrap().iter();
    let text = |it: &Value, key: &str| it[key].as_str().unwrap().to_owned();
    all.map(|it| (text(it, "reference"), text(it, "code"), text(it, "field")))
        .collect()
}

#[test]
fn a_manifest_its_object_and_the_bare_object_are_read_alike() {
    for (evidence, values, name) in [
        (REPORT, json!({ "snp": [snp()] }), "snp[0]"),
        (QUOTE, json!({ "tdx": [tdx()] }), "tdx[0]"),
    ] {
        for reference in [
            values.clone(),
            json!({ "ReferenceValues": values }),
            manifest(&values),
        ] {
            let file = Temporary::new(reference.to_string());
            let answer = accepted(&format!("{evidence} --reference {file}"));
            assert_eq!(answer["reference"], name);
            let judged = answer["judged"].as_str().unwrap();
            assert!(
                judged.starts_with("everything but the report data"),
                "{judged}"
            );
        }
    }
}

#[test]
fn the_reference_value_that_matches_is_named() {
    let mut other = snp();
    other["TrustedMeasurement"] = "01".repeat(48).into();
    let file = Temporary::new(json!({ "snp": [other, snp()] }).to_string());
    let answer = accepted(&format!("{REPORT} --reference {file}"));
    assert_eq!(answer["reference"], "snp[1]");
    let text = evidence(&format!("verify {REPORT} --reference {file}"));
    assert!(text.stdout.contains("  matches snp[1]\n"), "{text:?}");
}

#[test]
fn a_report_that_is_not_listed_is_refused_with_what_differs() {
    let other: Value = "01".repeat(48).into();
    for (pointer, value, code, field) in [
        (
            "/TrustedMeasurement",
            other,
            "measurement-mismatch",
            "report.measurement",
        ),
        (
            "/ProductName",
            json!("Genoa"),
            "platform-not-listed",
            "report.product",
        ),
        (
            "/GuestPolicy/SMT",
            json!(false),
            "guest-policy",
            "report.policy.smt",
        ),
        (
            "/GuestPolicy/ABIMinor",
            json!(32),
            "guest-policy",
            "report.policy.abi",
        ),
        (
            "/AllowedChipIDs/0",
            "02".repeat(64).into(),
            "platform-not-listed",
            "report.chip_id",
        ),
    ] {
        let mut reference = snp();
        *reference.pointer_mut(pointer).unwrap() = value;
        let refusals = refusals(REPORT, &json!({ "snp": [reference] }));
        assert_eq!(refusals, [("snp[0]".into(), code.into(), field.into())]);
    }
}

#[test]
fn firmware_below_the_minimum_is_refused_in_each_component() {
    for component in [
        "BootloaderVersion",
        "TEEVersion",
        "SNPVersion",
        "MicrocodeVersion",
    ] {
        let mut reference = snp();
        let minimum = &mut reference["MinimumTCB"][component];
        *minimum = (minimum.as_u64().unwrap() + 1).into();
        for (_, code, _) in refusals(REPORT, &json!({ "snp": [reference] })) {
            assert_eq!(code, "tcb-too-low", "{component}");
        }
    }
}

#[test]
fn a_quote_that_is_not_listed_is_refused_with_what_differs() {
    let zeros = |bytes: usize| Value::from("00".repeat(bytes));
    for (pointer, value, code, field) in [
        ("/MrTd", zeros(48), "measurement-mismatch", "td.mr_td"),
        ("/Rtmrs/2", zeros(48), "measurement-mismatch", "td.rtmr2"),
        (
            "/AllowedPIIDs/0",
            zeros(16),
            "platform-not-listed",
            "pck.ppid",
        ),
    ] {
        let mut reference = tdx();
        *reference.pointer_mut(pointer).unwrap() = value;
        let refusals = refusals(QUOTE, &json!({ "tdx": [reference] }));
        assert_eq!(refusals, [("tdx[0]".into(), code.into(), field.into())]);
    }
}

#[test]
fn every_objection_of_every_reference_value_is_said() {
    let (mut one, mut two) = (snp(), snp());
    one["TrustedMeasurement"] = "01".repeat(48).into();
    one["GuestPolicy"]["SMT"] = false.into();
    two["MinimumTCB"]["SNPVersion"] = 25.into();
    let refusals = refusals(REPORT, &json!({ "snp": [one, two] }));
    let of = |name: &str| refusals.iter().filter(|it| it.0 == name).count();
    assert_eq!(of("snp[0]"), 2, "{refusals:?}");
    assert!(of("snp[1]") >= 1, "{refusals:?}");
    assert_eq!(of("snp[0]") + of("snp[1]"), refusals.len());
}

#[test]
fn a_tee_that_is_not_listed_is_refused() {
    let refusals = refusals(REPORT, &json!({ "tdx": [tdx()] }));
    assert_eq!(
        refusals,
        [(
            String::new(),
            "tee-not-listed".into(),
            "evidence.tee".into()
        )]
    );
}

#[test]
fn reference_values_that_allow_debugging_or_are_wrong_are_wrong_usage() {
    let mut debug = snp();
    debug["GuestPolicy"]["Debug"] = true.into();
    let mut short = snp();
    short["TrustedMeasurement"] = "01".into();
    short["Unknown"] = 1.into();
    for (reference, messages) in [
        (
            json!({ "snp": [debug] }).to_string(),
            &["ReferenceValues.snp[0].GuestPolicy.Debug: "][..],
        ),
        (
            json!({ "snp": [short] }).to_string(),
            &[
                "snp[0].TrustedMeasurement: ",
                "got unknown field \"Unknown\"",
            ],
        ),
        ("{}".to_owned(), &["ReferenceValues"]),
        ("nonsense".to_owned(), &["JSON"]),
        (String::new(), &["JSON"]),
    ] {
        let file = Temporary::new(reference);
        let run = evidence(&format!("verify --json {REPORT} --reference {file}"));
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{run:?}");
        assert!(
            run.stderr
                .starts_with(&format!("error: {file} is not valid:\n")),
            "{run:?}"
        );
        for message in messages {
            assert!(run.stderr.contains(message), "{run:?}");
        }
    }
}

#[test]
fn the_report_data_is_compared_where_it_is_given() {
    for (evidence, field, values) in [
        (REPORT, "report_data", json!({ "snp": [snp()] })),
        (QUOTE, "td.report_data", json!({ "tdx": [tdx()] })),
    ] {
        let own = fields(evidence)[field].as_str().unwrap().to_owned();
        let other = format!("ff{}", &own[2..]);
        let file = Temporary::new(values.to_string());
        for (reference, judged) in [
            (String::new(), "which program runs is not judged"),
            (format!("--reference {file}"), "everything"),
        ] {
            let answer = accepted(&format!("{evidence} {reference} --report-data {own}"));
            assert!(
                answer["judged"].as_str().unwrap().contains(judged),
                "{answer:#}"
            );
            let answer = refused(&format!("{evidence} {reference} --report-data {other}"));
            assert_eq!(answer["code"], "report-data-mismatch");
            assert!(answer["got"].as_str().unwrap().contains(&own), "{answer:#}");
            assert!(
                answer["want"].as_str().unwrap().contains(&other),
                "{answer:#}"
            );
        }
    }
    for wrong in ["00", &"0".repeat(127), &"g".repeat(128)] {
        let run = evidence(&format!("verify {REPORT} --report-data {wrong}"));
        assert_eq!(run.code, 2);
        assert!(
            run.stderr.contains("expected 128 hexadecimal digits"),
            "{run:?}"
        );
    }
}
