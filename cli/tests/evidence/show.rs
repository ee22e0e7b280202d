use serde_json::Value;

use crate::run::{Temporary, evidence, evidence_to, vector};

#[track_caller]
fn shown(arguments: &str) -> (String, Value) {
    let text = evidence(&format!("show {arguments}"));
    let json = evidence(&format!("show --json {arguments}"));
    for run in [&text, &json] {
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(run.stderr, "");
    }
    let object: Value = serde_json::from_str(&json.stdout).unwrap();
    // Each says the same.
    for (name, value) in object.as_object().unwrap() {
        let value = value.as_str().unwrap();
        let is_there = |line: &str| line.trim_start().starts_with(name) && line.ends_with(value);
        assert!(
            name == "tee" || text.stdout.lines().any(is_there),
            "{name} {value}"
        );
    }
    assert_eq!(
        text.stdout.lines().count(),
        object.as_object().unwrap().len()
    );
    (text.stdout, object)
}

#[test]
fn every_report_is_shown() {
    for (report, version, measurement) in [
        ("snp/sev-crate/report_milan.hex", "2", "7a1e5c266c01"),
        ("snp/trustee/test-report.bin", "2", ""),
        ("snp/azure/derived/milan-v3-v1-report.bin", "3", ""),
        ("snp/azure/derived/genoa-v3-report.bin", "3", "f57dc09a507c"),
    ] {
        let (text, object) = shown(&format!("--evidence {report}"));
        assert!(
            text.starts_with("sev-snp evidence, not verified\n"),
            "{text}"
        );
        assert_eq!(object["tee"], "sev-snp");
        assert_eq!(object["version"], version);
        let shown = object["measurement"].as_str().unwrap();
        assert_eq!(shown.len(), 96);
        assert!(shown.starts_with(measurement), "{shown}");
        let same = evidence(&format!("show --tee sev-snp --evidence {report}"));
        assert_eq!(same.stdout, text);
    }
}

#[test]
fn every_quote_is_shown() {
    for (quote, version) in [
        ("tdx/dcap-qvl/tdx_quote", "4"),
        ("tdx/dcap-qvl/tdx_quote_outdated", "5"),
        ("tdx/dcap-qvl/tdx-quote.hex", "4"),
        ("tdx/dcap-qvl/quote-from-tappd.hex", "4"),
        ("tdx/go-tdx-guest/cos-113-tdx-quote.dat", "4"),
        ("tdx/go-tdx-guest/tdx_prod_quote_SPR_E4.dat", "4"),
    ] {
        let (text, object) = shown(&format!("--evidence {quote}"));
        assert!(text.starts_with("tdx evidence, not verified\n"), "{text}");
        assert_eq!(object["tee"], "tdx");
        assert_eq!(object["header.version"], version);
        assert_eq!(object["td.mr_td"].as_str().unwrap().len(), 96);
    }
}

#[test]
fn what_is_no_evidence_is_refused_with_where_and_why() {
    let cut = Temporary::new(&vector("snp/trustee/test-report.bin")[..1183]);
    let empty = Temporary::new("");
    for (arguments, code, got) in [
        (format!("--evidence {cut}"), "evidence-malformed", "1183"),
        (
            format!("--tee sev-snp --evidence {empty}"),
            "evidence-malformed",
            "0",
        ),
        (format!("--evidence {empty}"), "evidence-malformed", "0"),
        ("--evidence sgx/sgx_quote".into(), "wrong-tee", "SGX"),
        ("--evidence README.md".into(), "", ""),
        (
            "--tee sev-snp --evidence tdx/dcap-qvl/tdx_quote".into(),
            "evidence-malformed",
            "",
        ),
        (
            "--tee tdx --evidence snp/trustee/test-report.bin".into(),
            "",
            "",
        ),
    ] {
        let json = evidence(&format!("show --json {arguments}"));
        assert_eq!((json.code, json.stderr.as_str()), (1, ""), "{json:?}");
        let answer: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(answer["ok"], false);
        assert_eq!(answer["class"], "malformed");
        assert!(
            answer["code"].as_str().unwrap().contains(code),
            "{answer:#}"
        );
        assert!(answer["got"].as_str().unwrap().contains(got), "{answer:#}");
        let text = evidence(&format!("show {arguments}"));
        assert_eq!(text.code, 1);
        assert!(text.stdout.starts_with("refused\n"), "{text:?}");
    }
    let run = evidence("show --tee simulated --evidence sgx/sgx_quote");
    assert_eq!(run.code, 2, "{run:?}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let report = "--evidence snp/trustee/test-report.bin";
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let run = evidence_to(closed(), &format!("show {report}"));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    // The exit code is the verdict, whoever reads.
    let run = evidence_to(closed(), &format!("verify --tee sev-snp {report}"));
    assert_eq!((run.code, run.stderr.as_str()), (1, ""));

    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let run = evidence_to(full, &format!("show {report}"));
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("No space left on device"), "{run:?}");
}
