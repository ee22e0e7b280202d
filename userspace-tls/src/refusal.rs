//! Why a handshake failed: one reason code for machines, one sentence for the operator.

use std::fmt;
use std::io;

use rustls::{CertificateError, Error as TlsError, InvalidMessage, PeerIncompatible};

use crate::alert::Alert;
use crate::assurance::AssuranceMismatch;
use crate::certificate::{Facts, IdentityProblem};

/// A handshake that did not complete.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client sent no certificate although one is required.
    #[error("peer presented no certificate, a mesh certificate is required here")]
    NoCertificate,
    /// The peer's chain leads to none of the trust anchors.
    #[error("peer's certificate {0} does not chain to any certificate in mesh-ca.pem")]
    UnknownIssuer(PresentedCertificate),
    /// A certificate of the peer's chain has expired.
    #[error("peer's certificate {certificate} has expired: {times}")]
    CertificateExpired {
        /// The peer's leaf certificate.
        certificate: PresentedCertificate,
        /// The time now and the time of expiry.
        times: String,
    },
    /// A certificate of the peer's chain is not valid yet.
    #[error("peer's certificate {certificate} is not yet valid: {times}")]
    CertificateNotYetValid {
        /// The peer's leaf certificate.
        certificate: PresentedCertificate,
        /// The time now and the time from which it is valid.
        times: String,
    },
    /// The chain verifies but its leaf names no workload.
    #[error("peer's certificate {certificate} carries no identity: {problem}")]
    IdentityMissing {
        /// The peer's leaf certificate.
        certificate: PresentedCertificate,
        /// What is wrong with its URI names.
        problem: IdentityProblem,
    },
    /// The peer's certificate rests on a simulated TEE, which counts for nothing here.
    #[error(
        "peer's certificate {0} rests on a simulated TEE, which protects nothing; this workload \
         accepts TEEs of hardware alone"
    )]
    Simulated(PresentedCertificate),
    /// The peer's certificate does not say that its TEE is simulated, as all must here.
    #[error(
        "peer's certificate {0} does not rest on a simulated TEE; this workload's own does, so it \
         meets none but its like"
    )]
    NotSimulated(PresentedCertificate),
    /// The certificate is unusable for another reason: purpose, encoding, signature.
    #[error("peer's certificate {certificate} is invalid: {problem}")]
    CertificateInvalid {
        /// The peer's leaf certificate.
        certificate: PresentedCertificate,
        /// What rustls or webpki objects to.
        problem: String,
    },
    /// The peer does not offer or accept TLS 1.3.
    #[error("peer does not speak TLS 1.3, the only version served: {0}")]
    TlsVersion(String),
    /// The first bytes are not a TLS record.
    #[error("peer does not speak TLS: its first bytes are \"{bytes}\"", bytes = .0.escape_ascii())]
    NotTls([u8; 5]),
    /// The peer refused us.
    #[error("peer refused the handshake with the alert {0}")]
    PeerAlert(Alert),
    /// The peer broke the protocol or shares no parameters with us.
    #[error("peer's handshake cannot be followed: {0}")]
    Protocol(String),
    /// The peer ended the connection during the handshake.
    #[error("peer closed the connection during the handshake")]
    Truncated,
    /// The connection broke during the handshake.
    #[error("connection broke during the handshake: {0}")]
    Reset(io::ErrorKind),
    /// A record or the handshake as a whole is longer than allowed.
    #[error("peer sent {got} bytes {what}, at most {limit} are allowed")]
    TooLarge {
        /// What is too long.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// The fault is on this side.
    #[error("handshake failed on this side: {0}")]
    Local(String),
}

impl HandshakeError {
    /// The reason code.
    pub fn reason(&self) -> HandshakeRefusal {
        match self {
            Self::NoCertificate => HandshakeRefusal::PeerNoCertificate,
            Self::UnknownIssuer(_) => HandshakeRefusal::PeerUnknownIssuer,
            Self::CertificateExpired { .. } => HandshakeRefusal::PeerCertificateExpired,
            Self::CertificateNotYetValid { .. } => HandshakeRefusal::PeerCertificateNotYetValid,
            Self::IdentityMissing { .. } => HandshakeRefusal::PeerIdentityMissing,
            Self::Simulated(_) => HandshakeRefusal::PeerSimulated,
            Self::NotSimulated(_) => HandshakeRefusal::PeerNotSimulated,
            Self::CertificateInvalid { .. } => HandshakeRefusal::PeerCertificateInvalid,
            Self::TlsVersion(_) => HandshakeRefusal::PeerTlsVersion,
            Self::NotTls(_) => HandshakeRefusal::PeerNotTls,
            Self::PeerAlert(_) => HandshakeRefusal::PeerAlert,
            Self::Protocol(_) => HandshakeRefusal::PeerProtocol,
            Self::Truncated => HandshakeRefusal::Truncated,
            Self::Reset(_) => HandshakeRefusal::Reset,
            Self::TooLarge { .. } => HandshakeRefusal::TooLarge,
            Self::Local(_) => HandshakeRefusal::Local,
        }
    }

    /// `certificate` is what the verifier refused, if it was the verifier that refused.
    pub(crate) fn from_tls(error: TlsError, certificate: Option<PresentedCertificate>) -> Self {
        match error {
            TlsError::NoCertificatesPresented => Self::NoCertificate,
            TlsError::InvalidCertificate(error) => {
                Self::from_certificate(&error, certificate.unwrap_or_default())
            }
            TlsError::AlertReceived(alert) => match Alert(alert.into()) {
                Alert::PROTOCOL_VERSION => {
                    Self::TlsVersion("it answered with the alert protocol_version".to_owned())
                }
                alert => Self::PeerAlert(alert),
            },
            TlsError::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            ) => Self::TlsVersion("it offers older versions only".to_owned()),
            TlsError::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => {
                Self::TlsVersion("it names an unknown version".to_owned())
            }
            TlsError::FailedToGetCurrentTime
            | TlsError::FailedToGetRandomBytes
            | TlsError::HandshakeNotComplete
            | TlsError::InconsistentKeys(_)
            | TlsError::EncryptError
            | TlsError::General(_)
            | TlsError::Other(_) => Self::Local(error.to_string()),
            error => Self::Protocol(error.to_string()),
        }
    }

    fn from_certificate(error: &CertificateError, certificate: PresentedCertificate) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownIssuer(certificate),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Self::CertificateExpired {
                    certificate,
                    times: error.to_string(),
                }
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::CertificateNotYetValid {
                    certificate,
                    times: error.to_string(),
                }
            }
            CertificateError::Other(other) => {
                if let Some(problem) = other.0.downcast_ref::<IdentityProblem>() {
                    return Self::IdentityMissing {
                        certificate,
                        problem: problem.clone(),
                    };
                }
                match other.0.downcast_ref::<AssuranceMismatch>() {
                    Some(AssuranceMismatch::Simulated) => Self::Simulated(certificate),
                    Some(AssuranceMismatch::NotSimulated) => Self::NotSimulated(certificate),
                    None => Self::CertificateInvalid {
                        certificate,
                        problem: error.to_string(),
                    },
                }
            }
            error => Self::CertificateInvalid {
                certificate,
                problem: error.to_string(),
            },
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            kind => Self::Reset(kind),
        }
    }
}

/// Who an unverified certificate claims to be from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresentedCertificate {
    /// The subject, as RFC 4514 text.
    pub subject: String,
    /// The issuer, as RFC 4514 text.
    pub issuer: String,
}

impl From<Facts> for PresentedCertificate {
    fn from(
        Facts {
            subject, issuer, ..
        }: Facts,
    ) -> Self {
        Self { subject, issuer }
    }
}

impl fmt::Display for PresentedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(subject {:?}, issuer {:?})", self.subject, self.issuer)
    }
}

/// The reason code of a [`HandshakeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeRefusal {
    /// The client sent no certificate although one is required.
    PeerNoCertificate,
    /// The peer's chain leads to none of the trust anchors.
    PeerUnknownIssuer,
    /// A certificate of the peer's chain has expired.
    PeerCertificateExpired,
    /// A certificate of the peer's chain is not valid yet.
    PeerCertificateNotYetValid,
    /// The peer's leaf certificate does not carry exactly one SPIFFE ID.
    PeerIdentityMissing,
    /// The peer's certificate rests on a simulated TEE, ours on hardware.
    PeerSimulated,
    /// The peer's certificate does not rest on a simulated TEE, ours does.
    PeerNotSimulated,
    /// The peer's certificate is unusable for another reason.
    PeerCertificateInvalid,
    /// The peer does not speak TLS 1.3.
    PeerTlsVersion,
    /// The peer does not speak TLS.
    PeerNotTls,
    /// The peer refused us.
    PeerAlert,
    /// The peer broke the protocol or shares no parameters with us.
    PeerProtocol,
    /// The peer ended the connection during the handshake.
    Truncated,
    /// The connection broke during the handshake.
    Reset,
    /// A record or the handshake as a whole is longer than allowed.
    TooLarge,
    /// The fault is on this side.
    Local,
}

impl HandshakeRefusal {
    /// The code as logs, metrics and the documentation spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerNoCertificate => "peer-no-certificate",
            Self::PeerUnknownIssuer => "peer-unknown-issuer",
            Self::PeerCertificateExpired => "peer-certificate-expired",
            Self::PeerCertificateNotYetValid => "peer-certificate-not-yet-valid",
            Self::PeerIdentityMissing => "peer-identity-missing",
            Self::PeerSimulated => "peer-simulated",
            Self::PeerNotSimulated => "peer-not-simulated",
            Self::PeerCertificateInvalid => "peer-certificate-invalid",
            Self::PeerTlsVersion => "peer-tls-version",
            Self::PeerNotTls => "peer-not-tls",
            Self::PeerAlert => "peer-alert",
            Self::PeerProtocol => "peer-protocol",
            Self::Truncated => "truncated",
            Self::Reset => "reset",
            Self::TooLarge => "too-large",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for HandshakeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
