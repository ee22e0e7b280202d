use crate::run::{Temporary, accepted, refusal, refused, vector};

const AT: &str = "--tee sev-snp --at 2026-01-01T00:00:00Z";
const REPORT: &str = "snp/trustee/test-report.bin";
const VCEK: &str = "snp/trustee/test-vcek.der";
const ASK_ARK: &str = "snp/ca/ask_ark_milan.pem";

fn with_certs(certs: &str) -> String {
    format!("{AT} --evidence {REPORT} --certs {certs}")
}

#[test]
fn each_genuine_report_is_accepted_with_its_vcek() {
    for (report, vcek, reported_tcb) in [
        (
            "snp/sev-crate/report_milan.hex",
            "snp/sev-crate/vcek_milan.der",
            "snp 8",
        ),
        (REPORT, VCEK, "snp 8"),
        (
            "snp/azure/derived/milan-v3-v1-report.bin",
            "snp/azure/derived/milan-v3-v1-vcek.der",
            "snp 24",
        ),
        (
            "snp/azure/derived/genoa-v3-report.bin",
            "snp/azure/derived/genoa-v3-vcek.pem",
            "snp 23",
        ),
    ] {
        let answer = accepted(&format!("{AT} --evidence {report} --certs {vcek}"));
        assert_eq!(answer["tee"], "sev-snp");
        assert_eq!(answer["reference"], serde_json::Value::Null);
        assert_eq!(answer["fields"]["policy.debug"], "false");
        let tcb = answer["fields"]["reported_tcb"].as_str().unwrap();
        assert!(tcb.contains(reported_tcb), "{tcb}");
        let judged = answer["judged"].as_str().unwrap();
        assert!(judged.contains("which program runs is not judged without --reference"));
    }
}

#[test]
fn amds_chain_may_come_along_in_any_file_and_order() {
    let (ask, ark) = ask_and_ark();
    let everything = Temporary::new([vector(ASK_ARK), pem(&vector(VCEK))].concat());
    for certs in [
        format!("{VCEK} {ASK_ARK}"),
        format!("{ASK_ARK} {VCEK}"),
        format!("{ark} {VCEK} {ask}"),
        format!("{VCEK} --certs {ASK_ARK}"),
        format!("{VCEK} {ASK_ARK} snp/ca/ask_ark_milan_vlek.pem snp/ca/ask_ark_genoa.pem"),
        everything.to_string(),
    ] {
        accepted(&with_certs(&certs));
    }
}

#[test]
fn of_several_vceks_the_right_one_is_found() {
    let other = "snp/sev-crate/vcek_milan.der";
    accepted(&with_certs(&format!("{VCEK} {other}")));
    accepted(&with_certs(&format!("{other} {VCEK}")));
}

#[test]
fn a_vcek_that_is_not_of_this_chip_and_firmware_is_refused() {
    for (vcek, code, field) in [
        (
            "snp/sev-crate/vcek_milan.der",
            "endorsement-mismatch",
            "vcek.hwid",
        ),
        (
            "snp/trustee/test-vcek-invalid-legacy.der",
            "chain-untrusted",
            "vcek",
        ),
        (
            "snp/trustee/test-vcek-invalid-new.der",
            "chain-untrusted",
            "vcek",
        ),
        (
            "snp/sev_attest_tool/sample_vcek.crt",
            "endorsement-mismatch",
            "vcek.hwid",
        ),
        (
            "snp/sev-crate/vcek_turin.der",
            "endorsement-mismatch",
            "vcek.hwid",
        ),
        (ASK_ARK, "chain-untrusted", "vcek.issuer"),
        (
            "tdx/intel_sgx_root_ca.der",
            "chain-untrusted",
            "vcek.issuer",
        ),
    ] {
        assert_eq!(
            refusal(&with_certs(vcek)),
            (code.into(), field.into()),
            "{vcek}"
        );
    }
}

#[test]
fn a_report_without_its_vcek_is_refused_as_such() {
    let answer = refused(&format!("{AT} --evidence {REPORT}"));
    assert_eq!(answer["code"], "endorsement-missing");
    assert_eq!(answer["field"], "vcek");
}

/// The chain is not needed, but one that is given and does not hold is no mere surplus.
#[test]
fn a_chain_that_does_not_hold_is_refused() {
    let (ask, _) = ask_and_ark();
    for chain in [
        &ask.to_string(),
        "snp/ca/ask_ark_genoa.pem",
        "snp/ca/ask_ark_milan_vlek.pem",
        "snp/ca/ask_ark_turin_vcek.pem",
        "tdx/intel_sgx_root_ca.der",
    ] {
        let (code, field) = refusal(&with_certs(&format!("{VCEK} {chain}")));
        assert_eq!(
            (code.as_str(), field.as_str()),
            ("chain-untrusted", "certs"),
            "{chain}"
        );
    }
}

#[test]
fn a_flipped_bit_in_any_certificate_is_refused() {
    for (file, others) in [(VCEK, ASK_ARK), (ASK_ARK, VCEK)] {
        let bytes = vector(file);
        for at in (0..bytes.len()).step_by(bytes.len() / 14) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 2;
            let flipped = Temporary::new(flipped);
            let answer = refused(&with_certs(&format!("{flipped} {others}")));
            let class = answer["class"].as_str().unwrap();
            assert!(
                ["untrusted", "malformed"].contains(&class),
                "{file} at {at}: {answer:#}"
            );
        }
    }
}

#[test]
fn a_flipped_bit_of_the_report_is_refused() {
    let report = vector(REPORT);
    for (at, bit, code) in [
        (0x00, 0x80, "version-unsupported"),
        (0x04, 0x01, "signature-invalid"),
        (0x0a, 0x08, "signature-invalid"),
        (0x90, 0x01, "signature-invalid"),
        (0x29f, 0x80, "signature-invalid"),
        (0x2a0, 0x01, "signature-invalid"),
        (0x49f, 0x01, "evidence-malformed"),
    ] {
        let mut flipped = report.clone();
        flipped[at] ^= bit;
        let flipped = Temporary::new(flipped);
        let arguments = format!("{AT} --evidence {flipped} --certs {VCEK}");
        assert_eq!(refusal(&arguments).0, code, "{at:#x}");
    }
}

#[test]
fn a_report_of_another_length_is_refused() {
    let report = [vector(REPORT), vec![0]].concat();
    for length in [0, 1, 100, 1183, 1185] {
        let cut = Temporary::new(&report[..length]);
        let arguments = format!("{AT} --evidence {cut} --certs {VCEK}");
        assert_eq!(refusal(&arguments).0, "evidence-malformed", "{length}");
    }
}

#[test]
fn evidence_is_read_in_hexadecimal_with_white_space_anywhere() {
    let text = hex::encode(vector(REPORT));
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(63)
        .map(String::from_utf8_lossy)
        .collect();
    for contents in [
        text.to_uppercase(),
        lines.join("\r\n"),
        format!("\n  {text}\t\n"),
    ] {
        let file = Temporary::new(contents);
        accepted(&format!("{AT} --evidence {file} --certs {VCEK}"));
    }
    let odd = Temporary::new(&text[1..]);
    let (code, field) = refusal(&format!("{AT} --evidence {odd} --certs {VCEK}"));
    assert_eq!(
        (code.as_str(), field.as_str()),
        ("evidence-malformed", "evidence")
    );
}

#[test]
fn other_files_of_the_vectors_are_no_reports() {
    for file in [
        "snp/azure/trustee-evidence-v1.json",
        "snp/sev_attest_tool/sample_attestation_report.json",
        "snp/sev-crate/vcek_milan.der",
        "tdx/dcap-qvl/tdx_quote",
        "sgx/sgx_quote",
        "README.md",
    ] {
        let arguments = format!("{AT} --evidence {file} --certs {VCEK}");
        assert_eq!(refusal(&arguments).0, "evidence-malformed", "{file}");
    }
}

#[test]
fn certificates_are_judged_at_the_time_given() {
    let at = |time: &str| {
        format!("--tee sev-snp --at {time} --evidence {REPORT} --certs {VCEK} {ASK_ARK}")
    };
    accepted(&at("2023-06-01T02:00:00+02:00"));
    assert_eq!(refusal(&at("2022-12-31T23:59:59Z")).0, "not-yet-valid");
    assert_eq!(refusal(&at("1969-01-01T00:00:00Z")).0, "not-yet-valid");
    assert_eq!(refusal(&at("2031-01-01T00:00:00Z")).0, "expired");
}

fn pem(der: &[u8]) -> Vec<u8> {
    pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, der)
        .unwrap()
        .into_bytes()
}

/// The two certificates of a file, in files of their own.
fn ask_and_ark() -> (Temporary, Temporary) {
    let chain = vector(ASK_ARK);
    let begin = b"-----BEGIN CERTIFICATE-----";
    let second = chain
        .windows(begin.len())
        .rposition(|it| it == begin)
        .unwrap();
    let (ask, ark) = chain.split_at(second);
    (Temporary::new(ask), Temporary::new(ark))
}
