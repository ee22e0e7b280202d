use attestation::oid::{self, Oid};
use attestation::{Claims, Digest, Tee};
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose};
use x509_parser::asn1_rs::{self, ToDer};

use super::error::PkiError;

/// Why a workload got its certificate: what its evidence said, and under which manifest that was
/// enough. Everybody who sees the certificate can read it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateClaims<'a> {
    /// The claims of the [`AttestationResult`](attestation::AttestationResult).
    pub evidence: &'a Claims,
    /// The hash of the manifest in force.
    pub manifest: Digest,
    /// The number of the transition that put the manifest in force.
    pub transition_seq: u64,
}

impl CertificateClaims<'_> {
    /// The extensions that carry the claims, none of them critical: who does not know them may use
    /// the certificate all the same.
    pub(super) fn extensions(&self) -> Result<Vec<CustomExtension>, PkiError> {
        let Claims {
            tee,
            measurement,
            host_data,
            platform,
        } = self.evidence;
        let mut extensions = vec![
            extension(oid::TEE, &tee.as_str())?,
            extension(oid::MEASUREMENT, &measurement.as_slice())?,
            extension(oid::HOST_DATA, &host_data.0.as_slice())?,
            extension(oid::MANIFEST, &self.manifest.0.as_slice())?,
            extension(oid::TRANSITION, &self.transition_seq)?,
        ];
        if !platform.is_empty() {
            extensions.push(extension(oid::PLATFORM, &platform.as_slice())?);
        }
        Ok(extensions)
    }

    /// What the certificate is good for.
    pub(super) fn purpose(&self) -> Purpose {
        match self.evidence.tee {
            Tee::SevSnp | Tee::Tdx => Purpose::Tls,
            Tee::Simulated => Purpose::SimulatedTls,
        }
    }
}

/// The extended key usage of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// TLS, as client and as server.
    Tls,
    /// TLS with those alone who accept a simulated TEE.
    ///
    /// The extension is critical and has no other purpose, so every verifier of TLS certificates
    /// refuses it. An unknown critical extension would do that too, but then nobody who verifies
    /// with webpki could accept it: webpki lets its callers add purposes, not extensions.
    SimulatedTls,
}

impl Purpose {
    /// The purposes for an extension that is not critical.
    pub(super) fn extended_key_usages(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Tls => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            Self::SimulatedTls => Vec::new(),
        }
    }

    /// The critical extension; rcgen itself writes only the other kind.
    pub(super) fn critical_extended_key_usage(self) -> Result<Option<CustomExtension>, PkiError> {
        match self {
            Self::Tls => Ok(None),
            Self::SimulatedTls => {
                let purposes = vec![asn1_rs::Oid::new(oid::SIMULATED.der().into())];
                let mut extension =
                    CustomExtension::from_oid_content(EXTENDED_KEY_USAGE, der(&purposes)?);
                extension.set_criticality(true);
                Ok(Some(extension))
            }
        }
    }
}

fn extension(oid: Oid, value: &impl ToDer) -> Result<CustomExtension, PkiError> {
    Ok(CustomExtension::from_oid_content(oid.arcs(), der(value)?))
}

fn der(value: &impl ToDer) -> Result<Vec<u8>, PkiError> {
    value.to_der_vec().map_err(PkiError::Encode)
}

/// RFC 5280, section 4.2.1.12.
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
