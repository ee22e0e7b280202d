//! The path from a VCEK or VLEK to AMD's root.

use std::slice;

use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, UnixTime,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY as RSA_PSS_SHA384;
use webpki::{EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

use super::roots::{Anchors, signer_name};
use super::vek::{Vek, common_name};
use crate::refusal::{Code, Refusal};

/// Checks signatures, dates, names and constraints up to the root (RFC 5280, section 6). The
/// root's own dates do not matter: it is trusted for being known.
pub(super) fn verify(vek: &Vek<'_>, anchors: &Anchors, now: UnixTime) -> Result<(), Refusal> {
    let refused = |error: Error| refusal(&error, vek, anchors);
    let root = anchor_from_trusted_cert(&anchors.ark).map_err(refused)?;
    EndEntityCert::try_from(vek.der())
        .map_err(refused)?
        .verify_for_usage(
            &[RSA_PSS_SHA384, &WithTrailerField],
            slice::from_ref(&root),
            slice::from_ref(anchors.signer(vek.key())),
            now,
            // AMD's certificates name no purpose; one that does is of another kind.
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map(|_| ())
        .map_err(refused)
}

/// RSA-PSS with SHA-384 in the encoding that names the trailer field, although it is the default.
/// AMD's older certificates have it; the newer ones have the one without.
#[derive(Debug)]
struct WithTrailerField;

impl SignatureVerificationAlgorithm for WithTrailerField {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        RSA_PSS_SHA384.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        RSA_PSS_SHA384.public_key_alg_id()
    }

    /// Identifier and parameters of RFC 4055, section 3.1: SHA-384, MGF1 with SHA-384, 48 bytes of
    /// salt, trailer field 1.
    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        AlgorithmIdentifier::from_slice(&[
            0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x39, 0xa0,
            0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02,
            0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d,
            0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04,
            0x02, 0x02, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x30, 0xa3, 0x03, 0x02, 0x01, 0x01,
        ])
    }
}

fn refusal(error: &Error, vek: &Vek<'_>, anchors: &Anchors) -> Refusal {
    let key = vek.key();
    // The error does not say which certificate; its dates do.
    let owner = |date: UnixTime, of_vek: i64| {
        if i64::try_from(date.as_secs()) == Ok(of_vek) {
            key.as_str()
        } else {
            signer_name(key)
        }
    };
    let validity = vek.certificate().validity();
    match error {
        Error::CertNotValidYet { time, not_before } => Refusal::new(
            Code::NotYetValid,
            format!(
                "{}.notBefore",
                owner(*not_before, validity.not_before.timestamp())
            ),
            rfc3339(*not_before),
            format_args!("at or before {}", rfc3339(*time)),
        ),
        Error::CertExpired { time, not_after } => Refusal::new(
            Code::Expired,
            format!(
                "{}.notAfter",
                owner(*not_after, validity.not_after.timestamp())
            ),
            rfc3339(*not_after),
            format_args!("at or after {}", rfc3339(*time)),
        ),
        Error::UnknownIssuer => Refusal::new(
            Code::Chain,
            format!("{key}.issuer"),
            common_name(vek.certificate().issuer()),
            format_args!("the {} of {}", signer_name(key), anchors.product),
        ),
        other => Refusal::new(
            Code::Chain,
            key.as_str(),
            description(other),
            format_args!(
                "a certificate by the {} of {}",
                signer_name(key),
                anchors.product
            ),
        ),
    }
}

/// `error` in words. Those that quote the certificate are not shown as they are: the peer chose
/// the bytes.
fn description(error: &Error) -> String {
    match error {
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            "signed with another algorithm than AMD's".to_owned()
        }
        Error::RequiredEkuNotFoundContext(_) => "made for another purpose".to_owned(),
        Error::InvalidSignatureForPublicKey => "not signed by the issuer that it names".to_owned(),
        Error::CaUsedAsEndEntity => "the certificate of an authority".to_owned(),
        other => format!("refused ({other})"),
    }
}

/// `time` as people write it, UTC.
pub(super) fn rfc3339(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("second {} of Unix time", time.as_secs()))
}
