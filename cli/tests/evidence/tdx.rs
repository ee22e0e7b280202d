use serde_json::Value;

use crate::run::{Temporary, accepted, evidence, refusal, refused, vector};

const QUOTE: &str = "tdx/dcap-qvl/tdx_quote";
const COLLATERAL: &str = "tdx/dcap-qvl/tdx_quote_collateral.json";
const OUTDATED: &str = "tdx/dcap-qvl/tdx_quote_outdated";
const OUTDATED_COLLATERAL: &str = "tdx/dcap-qvl/tdx_quote_outdated_collateral.json";
const SGX_COLLATERAL: &str = "sgx/sgx_quote_collateral.json";
const NOW: &str = "2025-06-20T00:00:00Z";
const OUTDATED_NOW: &str = "2026-02-18T11:58:51Z";

fn with(quote: &dyn std::fmt::Display, collateral: &str, now: &str) -> String {
    format!("--tee tdx --evidence {quote} --collateral {collateral} --at {now}")
}

#[test]
fn a_genuine_quote_is_accepted_with_its_collateral() {
    let answer = accepted(&with(&QUOTE, COLLATERAL, NOW));
    assert_eq!(answer["tee"], "tdx");
    assert_eq!(answer["fields"]["tcb.status"], "UpToDate");
    assert_eq!(answer["fields"]["pck.fmspc"], "b0c06f000000");
    let hex = Temporary::new(format!("0x{}\n", hex::encode(vector(QUOTE))));
    accepted(&with(&hex, COLLATERAL, NOW));
}

#[test]
fn collateral_gives_the_verdicts_of_the_readme() {
    for (quote, collateral, now, code) in [
        (OUTDATED, OUTDATED_COLLATERAL, OUTDATED_NOW, "tcb-status"),
        (QUOTE, SGX_COLLATERAL, NOW, "collateral-untrusted"),
        (
            QUOTE,
            OUTDATED_COLLATERAL,
            OUTDATED_NOW,
            "collateral-untrusted",
        ),
        (OUTDATED, COLLATERAL, NOW, "collateral-untrusted"),
        (QUOTE, COLLATERAL, "2025-07-19T10:00:35Z", "expired"),
        (QUOTE, COLLATERAL, "2025-06-19T10:32:26Z", "not-yet-valid"),
        (
            OUTDATED,
            OUTDATED_COLLATERAL,
            "2026-03-20T10:42:16Z",
            "expired",
        ),
        ("sgx/sgx_quote", SGX_COLLATERAL, NOW, "wrong-tee"),
    ] {
        assert_eq!(
            refusal(&with(&quote, collateral, now)).0,
            code,
            "{quote} {collateral}"
        );
    }
}

/// The collateral of the vectors is long out of date.
#[test]
fn the_time_is_now_unless_it_is_given() {
    let arguments = format!("verify --tee tdx --evidence {QUOTE} --collateral {COLLATERAL} --json");
    // Only once: a second run would name another time.
    let answer: Value = serde_json::from_str(&evidence(&arguments).stdout).unwrap();
    assert_eq!(answer["code"], "expired");
}

#[test]
fn a_quote_without_collateral_is_refused_as_such() {
    for quote in [
        QUOTE,
        OUTDATED,
        "tdx/dcap-qvl/tdx-quote.hex",
        "tdx/dcap-qvl/quote-from-tappd.hex",
        "tdx/go-tdx-guest/cos-113-tdx-quote.dat",
    ] {
        let arguments = format!("--tee tdx --evidence {quote} --at {NOW}");
        assert_eq!(refusal(&arguments).0, "endorsement-missing", "{quote}");
    }
    let trailing = "--tee tdx --evidence tdx/go-tdx-guest/tdx_prod_quote_SPR_E4.dat";
    assert_eq!(refusal(trailing).0, "evidence-malformed");
}

#[test]
fn evidence_of_sgx_is_refused_as_such() {
    let answer = refused("--tee tdx --evidence sgx/sgx_quote");
    assert_eq!(answer["code"], "wrong-tee");
    assert_eq!(answer["got"], "0x0 (SGX)");
    assert_eq!(answer["want"], "0x81 (TDX)");
}

#[test]
fn other_files_of_the_vectors_are_no_quotes() {
    for file in [
        "tdx/intel_sgx_root_ca.der",
        "snp/trustee/test-report.bin",
        COLLATERAL,
    ] {
        let answer = refused(&with(&file, COLLATERAL, NOW));
        assert_eq!(answer["class"], "malformed", "{file}");
    }
}

#[test]
fn a_guest_under_debugging_is_refused_whatever_else_is_wrong() {
    let mut quote = vector(QUOTE);
    quote[48 + 120] |= 1;
    let (code, field) = refusal(&with(&Temporary::new(quote), COLLATERAL, NOW));
    assert_eq!(
        (code.as_str(), field.as_str()),
        ("debug-allowed", "td.td_attributes")
    );
}

#[test]
fn a_changed_or_cut_quote_is_refused() {
    let quote = vector(QUOTE);
    for (at, code) in [
        (48 + 136, "signature-invalid"),
        (48 + 520, "signature-invalid"),
        (48 + 584 + 4, "signature-invalid"),
    ] {
        let mut flipped = quote.clone();
        flipped[at] ^= 1;
        assert_eq!(
            refusal(&with(&Temporary::new(flipped), COLLATERAL, NOW)).0,
            code,
            "{at}"
        );
    }
    for length in [0, 1, 47, 48, 631, 4000] {
        let cut = Temporary::new(&quote[..length]);
        let answer = refused(&with(&cut, COLLATERAL, NOW));
        assert_eq!(answer["class"], "malformed", "{length}");
    }
}

#[test]
fn changed_collateral_is_refused() {
    let text = String::from_utf8(vector(COLLATERAL)).unwrap();
    for (collateral, class) in [
        (text.replace("UpToDate", "OutOfDate"), "untrusted"),
        (text[..text.len() / 2].to_owned(), "malformed"),
        (String::new(), "stale"),
        ("{}".to_owned(), "stale"),
        ("[[[[".to_owned(), "malformed"),
    ] {
        let file = Temporary::new(collateral);
        let answer = refused(&with(&QUOTE, &file.to_string(), NOW));
        assert_eq!(answer["class"], class, "{answer:#}");
    }
}

#[test]
fn options_of_the_other_tee_are_wrong_usage() {
    let vcek = "snp/trustee/test-vcek.der";
    for (arguments, option) in [
        (
            format!("--tee tdx --evidence {QUOTE} --certs {vcek}"),
            "--certs",
        ),
        (
            format!("--tee tdx --evidence {QUOTE} --crl {vcek}"),
            "--crl",
        ),
        (
            format!("--tee sev-snp --evidence {QUOTE} --collateral {COLLATERAL}"),
            "--collateral",
        ),
    ] {
        let run = evidence(&format!("verify {arguments} --json"));
        assert_eq!(run.code, 2, "{run:?}");
        assert_eq!(run.stdout, "");
        assert!(
            run.stderr.contains(&format!("{option} is not for --tee")),
            "{run:?}"
        );
    }
    let run = evidence(&format!("verify --tee simulated --evidence {QUOTE}"));
    assert_eq!(run.code, 2, "{run:?}");
}
