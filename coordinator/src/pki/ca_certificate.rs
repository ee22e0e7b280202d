use attestation::identity::TrustDomain;
use rcgen::Issuer;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::PkiError;
use super::key::PrivateKey;
use super::pem;
use super::profile;
use super::validity::Validity;

/// The certificate of a CA of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaCertificate {
    der: CertificateDer<'static>,
    trust_domain: TrustDomain,
    validity: Validity,
}

impl CaCertificate {
    /// Reads a single certificate (`BEGIN CERTIFICATE`) that this module has made.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let (label, der) = pem_rfc7468::decode_vec(pem.as_bytes()).map_err(PkiError::NotPem)?;
        if label != pem::CERTIFICATE {
            return Err(PkiError::NotPem(pem_rfc7468::Error::Label));
        }
        Self::from_der(der.into())
    }

    /// The certificate as it goes over the wire.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate as it stands in a file.
    pub fn pem(&self) -> String {
        pem::encode(pem::CERTIFICATE, &self.der)
    }

    /// The trust domain whose identities the CA vouches for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// When it is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    pub(super) fn from_der(der: CertificateDer<'static>) -> Result<Self, PkiError> {
        let (trust_domain, validity) = {
            let x509 = parse(&der)?;
            if !x509.is_ca() {
                return Err(PkiError::NotCa);
            }
            let validity = x509.validity();
            let validity = Validity::between(
                validity.not_before.to_datetime(),
                validity.not_after.to_datetime(),
            );
            (
                trust_domain(&x509)?,
                validity.map_err(|_| PkiError::NotX509)?,
            )
        };
        Ok(Self {
            der,
            trust_domain,
            validity,
        })
    }

    /// This certificate with its key, ready to sign.
    pub(super) fn issuer<'k>(
        &self,
        key: &'k PrivateKey,
    ) -> Result<Issuer<'static, &'k rcgen::KeyPair>, PkiError> {
        Issuer::from_ca_cert_der(&self.der, key.signer()).map_err(PkiError::Sign)
    }

    pub(super) fn check_key(&self, key: &PrivateKey) -> Result<(), PkiError> {
        let x509 = parse(&self.der)?;
        if x509.public_key().raw != key.public_key().as_ref() {
            return Err(PkiError::KeyMismatch);
        }
        Ok(())
    }

    pub(super) fn check_covers(&self, validity: Validity) -> Result<(), PkiError> {
        if validity.not_after() > self.validity.not_after() {
            return Err(PkiError::OutlivesCa {
                not_after: validity.not_after(),
                ca_not_after: self.validity.not_after(),
            });
        }
        Ok(())
    }

    pub(crate) fn check_twin(&self, other: &Self) -> Result<(), PkiError> {
        let (a, b) = (parse(&self.der)?, parse(&other.der)?);
        if a.public_key().raw != b.public_key().raw
            || a.subject().as_raw() != b.subject().as_raw()
            || self.trust_domain != other.trust_domain
        {
            return Err(PkiError::NotTwins);
        }
        Ok(())
    }

    pub(crate) fn check_signed_by(&self, root: &Self) -> Result<(), PkiError> {
        let (x509, root) = (parse(&self.der)?, parse(&root.der)?);
        if x509.issuer().as_raw() != root.subject().as_raw()
            || x509.verify_signature(Some(root.public_key())).is_err()
        {
            return Err(PkiError::NotSignedByRoot);
        }
        Ok(())
    }
}

fn parse<'d>(der: &'d CertificateDer<'static>) -> Result<X509Certificate<'d>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok(([], x509)) => Ok(x509),
        _ => Err(PkiError::NotX509),
    }
}

fn trust_domain(x509: &X509Certificate<'_>) -> Result<TrustDomain, PkiError> {
    let names = x509
        .subject_alternative_name()
        .map_err(|_| PkiError::NotX509)?
        .ok_or(PkiError::NoTrustDomain)?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => profile::trust_domain_of_uri(uri),
        _ => None,
    }
    .ok_or(PkiError::NoTrustDomain)
}
