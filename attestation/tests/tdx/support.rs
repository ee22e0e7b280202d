//! Vectors, and what the tests ask of a verdict.

use std::path::Path;
use std::time::Duration;

use attestation::tdx::{self, Evidence, Quote, ReferenceValues, Root, TcbStatus};
use attestation::{Claims, Code, Refusal, ReportData};
use rustls_pki_types::UnixTime;
use time::OffsetDateTime;
use time::macros::datetime;

/// An hour after Intel issued the collateral of `tdx_quote`.
pub(crate) const REAL_NOW: OffsetDateTime = datetime!(2025-06-19 11:32:27 UTC);

/// Offsets in a quote of version 4.
pub(crate) const BODY: usize = 48;
pub(crate) const TD_ATTRIBUTES: usize = BODY + 120;
pub(crate) const SIGNATURE_DATA_LEN: usize = BODY + 584;
pub(crate) const SIGNATURE: usize = SIGNATURE_DATA_LEN + 4;
pub(crate) const CERTIFICATION_DATA_LEN: usize = SIGNATURE + 64 + 64 + 2;
pub(crate) const QE_REPORT: usize = CERTIFICATION_DATA_LEN + 4;
pub(crate) const PCK_CHAIN_LEN: usize = QE_REPORT + 384 + 64 + 2 + 32 + 2;
pub(crate) const PCK_CHAIN: usize = PCK_CHAIN_LEN + 4;

/// A file of `tests/vectors`; hexadecimal ones as the bytes that they stand for.
pub(crate) fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if path.extension().is_some_and(|it| it == "hex") {
        let text = String::from_utf8(bytes).unwrap();
        return hex::decode(text.trim().trim_start_matches("0x")).unwrap();
    }
    bytes
}

pub(crate) fn evidence(quote: &str, collateral: Option<&str>) -> Evidence {
    Evidence {
        quote: vector(quote),
        collateral: collateral.map(vector).unwrap_or_default(),
    }
}

/// The quote that has matching collateral.
pub(crate) fn real() -> Evidence {
    evidence(
        "tdx/dcap-qvl/tdx_quote",
        Some("tdx/dcap-qvl/tdx_quote_collateral.json"),
    )
}

pub(crate) fn unix(time: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(time.unix_timestamp()).unwrap();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub(crate) fn at(evidence: &Evidence, now: OffsetDateTime) -> Result<Verdict, Refusal> {
    verdict(evidence, &Root::intel(), now)
}

/// All that a caller learns of evidence that is accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) claims: Claims,
    pub(crate) status: TcbStatus,
    pub(crate) report: tdx::TdReport,
}

/// Authenticates, and appraises with a reference value that lists the quote as it is.
pub(crate) fn verdict(
    evidence: &Evidence,
    root: &Root,
    now: OffsetDateTime,
) -> Result<Verdict, Refusal> {
    let quote = tdx::authenticate(evidence, root, unix(now))?;
    quote
        .check_baseline()
        .map_err(|mut all| all.swap_remove(0))?;
    let report = quote.quote().report().clone();
    let claims = quote
        .appraise(&listing(quote.quote()), &ReportData(report.report_data))
        .map_err(|mut all| all.swap_remove(0))?;
    Ok(Verdict {
        claims,
        status: quote.tcb_status(),
        report,
    })
}

/// A reference value that matches the quote.
pub(crate) fn listing(quote: &Quote) -> ReferenceValues {
    let report = quote.report();
    ReferenceValues {
        mr_td: report.mr_td,
        rtmrs: report.rtmrs,
        mr_seam: report.mr_seam,
        xfam: report.xfam,
        td_attributes: Some(report.td_attributes),
        tcb_statuses: TcbStatus::ALL.to_vec(),
        min_tcb_evaluation_data_number: None,
        smt_disabled: false,
        static_platform: false,
        ppids: Vec::new(),
    }
}

#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(verdict: Result<T, Refusal>, code: Code) {
    let refusal = verdict.expect_err("refused");
    assert_eq!(refusal.code, code, "{refusal}");
}

/// The chain in the quote, DER, leaf first.
pub(crate) fn pck_chain(quote: &[u8]) -> Vec<Vec<u8>> {
    x509_parser::pem::Pem::iter_from_buffer(&quote[PCK_CHAIN..])
        .map_while(Result::ok)
        .map(|pem| pem.contents)
        .collect()
}

/// The quote with another chain for its PCK.
pub(crate) fn with_pck_chain(quote: &[u8], chain: &[u8]) -> Vec<u8> {
    let mut changed = quote[..PCK_CHAIN].to_vec();
    changed.extend_from_slice(chain);
    for at in [PCK_CHAIN_LEN, CERTIFICATION_DATA_LEN, SIGNATURE_DATA_LEN] {
        let bytes = u32::try_from(changed.len() - at - 4).unwrap();
        changed[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
    }
    changed
}

pub(crate) fn to_pem(certificates: &[Vec<u8>]) -> Vec<u8> {
    use std::fmt::Write;
    let mut text = String::new();
    for der in certificates {
        let base64 = base64(der);
        let _ = writeln!(
            text,
            "-----BEGIN CERTIFICATE-----\n{base64}-----END CERTIFICATE-----"
        );
    }
    text.into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (index, chunk) in bytes.chunks(3).enumerate() {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() {
                DIGITS[index as usize] as char
            } else {
                '='
            });
        }
        if index % 16 == 15 {
            text.push('\n');
        }
    }
    text + "\n"
}
