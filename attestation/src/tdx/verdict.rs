//! Intel's judgement of the platform, by dcap-qvl.

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::intel::{PckExtension, parse_pck_extension_with};
use dcap_qvl::signature::DerSigEncoder;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::x509::X509CertBackend;
use dcap_qvl::{QuoteClaims, QuoteCollateralV3, QuotePolicy};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};

use super::pki::Chain;
use crate::refusal::{Code, Refusal};

/// dcap-qvl's own parsers over aws-lc-rs. Named, so that no feature of another crate can choose the
/// cryptographic library.
struct AwsLc;

impl Config for AwsLc {
    type X509 = X509CertBackend;
    type SigEncoder = DerSigEncoder;
    type Crypto = Self;
}

impl CryptoProvider for AwsLc {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        webpki::aws_lc_rs::ECDSA_P256_SHA256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, data).as_ref());
        hash
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        let mut hash = [0; 48];
        hash.copy_from_slice(digest(&SHA384, data).as_ref());
        hash
    }
}

/// Verifies all of it once more and finds the platform's TCB level. Whether that level, the
/// platform's configuration or a service guest is acceptable is left to the caller.
pub(super) fn judge(
    quote: &[u8],
    collateral: QuoteCollateralV3,
    root: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<QuoteClaims, Refusal> {
    let now = now.as_secs();
    QuoteVerifier::<AwsLc>::new_with_config(root.to_vec())
        .allow_service_td(true)
        .verify_with_policy(quote, collateral, now, &QuotePolicy::claims_only(now))
        .map_err(|error| classify(&format!("{error:#}")))
}

/// What Intel certified of the platform that the PCK is of.
pub(super) fn platform(pck: &Chain) -> Result<PckExtension, Refusal> {
    parse_pck_extension_with::<AwsLc>(&pck.leaf).map_err(|error| {
        let want = "a PCK certificate with Intel's SGX extension";
        Refusal::new(Code::Chain, pck.field, format_args!("{error:#}"), want)
    })
}

/// dcap-qvl gives its reasons as text. What is left for it to object to, all else being checked
/// before, is the quoting enclave, the TDX module and their TCB levels.
fn classify(text: &str) -> Refusal {
    let (_, code, field, want) = OBJECTIONS
        .iter()
        .find(|(part, ..)| text.contains(part))
        .unwrap_or(&OTHER);
    Refusal::new(*code, *field, text, *want)
}

type Objection = (&'static str, Code, &'static str, &'static str);

const LEVEL: &str = "a level that Intel lists, and not revoked";
const OTHER: Objection = ("", Code::Collateral, "collateral", "accepted by dcap-qvl");
const OBJECTIONS: &[Objection] = &[
    (
        "TDX module ISVSVN",
        Code::TcbStatus,
        "td.tee_tcb_svn",
        LEVEL,
    ),
    (
        "No TDX module identity",
        Code::TcbStatus,
        "td.tee_tcb_svn",
        LEVEL,
    ),
    (
        "No matching TCB level",
        Code::TcbStatus,
        "tcb.status",
        LEVEL,
    ),
    (
        "TCB status is invalid",
        Code::TcbStatus,
        "tcb.status",
        LEVEL,
    ),
    (
        "Unrecognized TCB status",
        Code::TcbStatus,
        "tcb.status",
        LEVEL,
    ),
    (
        "QE ISVSVN",
        Code::TcbStatus,
        "quote.qe_report.isv_svn",
        LEVEL,
    ),
    (
        "TDX module",
        Code::Endorsement,
        "td.mr_signer_seam",
        "a TDX module that Intel signed",
    ),
    (
        "QE ",
        Code::Collateral,
        "quote.qe_report",
        "the quoting enclave that Intel names",
    ),
];
