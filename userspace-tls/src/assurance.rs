//! What a certificate rests on: hardware, or a simulation of it.

use std::fmt;

use attestation::oid;
use x509_parser::prelude::X509Certificate;

/// Whether the members of a mesh run in TEEs of hardware. The two kinds never meet: each refuses
/// the other's certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assurance {
    /// Certificates for TLS, as everybody else has them: extended key usage `serverAuth` for a
    /// server and `clientAuth` for a client.
    Production,
    /// Certificates whose extended key usage is [`oid::SIMULATED`]: they rest on a TEE that is
    /// software, and protect nothing.
    Simulated,
}

impl Assurance {
    /// What the extended key usage of a certificate says.
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let purposes = certificate.extended_key_usage().ok().flatten();
        let is_simulated = purposes.is_some_and(|purposes| {
            purposes
                .value
                .other
                .iter()
                .any(|purpose| purpose.as_bytes() == oid::SIMULATED.der())
        });
        if is_simulated {
            Self::Simulated
        } else {
            Self::Production
        }
    }

    /// Refuses a certificate of the other kind.
    pub(crate) fn check(self, presented: Self) -> Result<(), AssuranceMismatch> {
        match (self, presented) {
            (Self::Production, Self::Simulated) => Err(AssuranceMismatch::Simulated),
            (Self::Simulated, Self::Production) => Err(AssuranceMismatch::NotSimulated),
            (Self::Production, Self::Production) | (Self::Simulated, Self::Simulated) => Ok(()),
        }
    }
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Production => "production",
            Self::Simulated => "simulated",
        })
    }
}

/// A certificate is of the other kind than those that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AssuranceMismatch {
    /// It rests on a simulated TEE, here counts hardware alone.
    #[error("it rests on a simulated TEE")]
    Simulated,
    /// It does not say that its TEE is simulated, here every certificate does.
    #[error("it does not rest on a simulated TEE")]
    NotSimulated,
}
