//! Errors of webpki in the terms of rustls, which picks the alert by them.

use std::sync::Arc;

use rustls::{CertificateError, ExtendedKeyPurpose, OtherError};
use webpki::{Error, KeyUsage};

/// The same as rustls does inside its own verifiers, which only know the purposes of plain TLS.
/// Revocation lists do not occur here.
pub(crate) fn certificate_error(error: Error) -> CertificateError {
    match error {
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => CertificateError::BadEncoding,
        Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        Error::InvalidCertValidity => CertificateError::Expired,
        Error::UnknownIssuer => CertificateError::UnknownIssuer,
        Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        Error::UnsupportedSignatureAlgorithmContext(context) => {
            CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: context.signature_algorithm_id,
                supported_algorithms: context.supported_algorithms,
            }
        }
        Error::UnsupportedSignatureAlgorithmForPublicKeyContext(context) => {
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: context.signature_algorithm_id,
                public_key_algorithm_id: context.public_key_algorithm_id,
            }
        }
        Error::RequiredEkuNotFoundContext(context) => CertificateError::InvalidPurposeContext {
            required: purpose(context.required.oid_values()),
            presented: context
                .present
                .into_iter()
                .map(|arcs| purpose(arcs.into_iter()))
                .collect(),
        },
        error => CertificateError::Other(OtherError(Arc::new(error))),
    }
}

fn purpose(arcs: impl Iterator<Item = usize>) -> ExtendedKeyPurpose {
    let arcs: Vec<_> = arcs.collect();
    match arcs.as_slice() {
        KeyUsage::CLIENT_AUTH_REPR => ExtendedKeyPurpose::ClientAuth,
        KeyUsage::SERVER_AUTH_REPR => ExtendedKeyPurpose::ServerAuth,
        _ => ExtendedKeyPurpose::Other(arcs),
    }
}
