use attestation::identity::{SpiffeId, TrustDomain};
use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::asn1_rs::SerializeError;

use super::key::KeyError;
use super::validity::rfc3339;

/// Why a CA could not be made or loaded, or did not sign.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A key could not be made or read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The operating system gave no random bytes for a serial number.
    #[error("cannot get random bytes for a serial number")]
    Random,
    /// The signature or the encoding failed.
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
    /// A claim cannot be written as an extension.
    #[error("cannot encode the attestation claims")]
    Encode(#[source] SerializeError),

    /// The caller asked for an identity that another authority vouches for.
    #[error("cannot issue {spiffe_id}: this CA vouches for trust domain {trust_domain} alone")]
    ForeignTrustDomain {
        /// The identity asked for.
        spiffe_id: SpiffeId,
        /// The trust domain of the CA.
        trust_domain: TrustDomain,
    },
    /// The caller asked for a workload to go by the name of the whole trust domain.
    #[error("cannot issue {spiffe_id}: a workload's SPIFFE ID has a path after the trust domain")]
    NoPath {
        /// The identity asked for.
        spiffe_id: SpiffeId,
    },
    /// The caller asked for a certificate that would outlive the one that vouches for it.
    #[error(
        "the certificate would be valid until {}, but its CA only until {}; ask for a shorter lifetime",
        rfc3339(*not_after), rfc3339(*ca_not_after)
    )]
    OutlivesCa {
        /// The end asked for.
        not_after: OffsetDateTime,
        /// The end of the CA.
        ca_not_after: OffsetDateTime,
    },
    /// A workload's public key is of another kind, or not a point of the curve.
    #[error("a workload's public key must be an ECDSA key on P-256, in SubjectPublicKeyInfo form")]
    WorkloadPublicKey,

    /// The text is not one PEM certificate.
    #[error("not a certificate in PEM form: {0}")]
    NotPem(pem_rfc7468::Error),
    /// What the PEM encloses is not X.509.
    #[error("not an X.509 certificate")]
    NotX509,
    /// The certificate may not sign others.
    #[error("not a CA certificate: basic constraints do not say so")]
    NotCa,
    /// The CA certificate does not say which trust domain it vouches for.
    #[error("not a mesh CA: no URI name of the form spiffe://<trust domain>")]
    NoTrustDomain,
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the CA certificate")]
    KeyMismatch,
    /// The intermediate and the mesh CA would lead to different chains.
    #[error("the intermediate and the mesh CA certificate differ in key, subject or trust domain")]
    NotTwins,
    /// The intermediate is of another root.
    #[error("the intermediate was not signed by this root")]
    NotSignedByRoot,
}
