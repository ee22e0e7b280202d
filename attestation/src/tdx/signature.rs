//! The signatures inside a quote: attestation key over guest, platform key over attestation key.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;

use super::quote::Quote;
use crate::refusal::{Code, Refusal};

/// That the attestation key signed the report of the guest, and that the quoting enclave named the
/// attestation key in its own report.
pub(super) fn check_quote(quote: &Quote) -> Result<(), Refusal> {
    let mut point = [4; 65];
    point[1..].copy_from_slice(&quote.attestation_key);
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(&quote.signed, &quote.signature)
        .map_err(|_| invalid("quote.signature", "a signature by the attestation key"))?;
    let hashed = [&quote.attestation_key[..], &quote.qe_auth_data].concat();
    let hash = digest(&SHA256, &hashed);
    if hash.as_ref() != quote.attestation_key_hash() {
        return Err(Refusal::new(
            Code::Signature,
            "quote.qe_report.report_data",
            hex::encode(quote.attestation_key_hash()),
            format_args!(
                "{}, the hash of the attestation key",
                hex::encode(hash.as_ref())
            ),
        ));
    }
    Ok(())
}

/// That the platform's PCK signed the report of the quoting enclave.
pub(super) fn check_qe_report(quote: &Quote, pck: &CertificateDer<'_>) -> Result<(), Refusal> {
    let want = "a signature by the platform's PCK";
    if signed_by(pck, &quote.qe_report, &quote.qe_report_signature) {
        return Ok(());
    }
    Err(invalid("quote.qe_report_signature", want))
}

/// Whether `signature` (r and s, P-256 with SHA-256) is by the certificate's key.
pub(super) fn signed_by(signer: &CertificateDer<'_>, message: &[u8], signature: &[u8]) -> bool {
    webpki::EndEntityCert::try_from(signer)
        .ok()
        .and_then(|cert| {
            let key = cert.subject_public_key_info();
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.as_ref()).ok()
        })
        .is_some_and(|key| key.verify_sig(message, signature).is_ok())
}

fn invalid(field: &str, want: &str) -> Refusal {
    Refusal::new(Code::Signature, field, "invalid", want)
}
