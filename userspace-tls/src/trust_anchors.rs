//! The certificates of `mesh-ca.pem` and what they vouch for.

use std::fmt;
use std::sync::Arc;

use attestation::oid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, DistinguishedName, Error, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::assurance::Assurance;
use crate::certificate::Facts;
use crate::webpki_error::certificate_error;

/// One or more trust anchors; more than one while the mesh CA is being rotated.
#[derive(Clone)]
pub(crate) struct TrustAnchors {
    roots: Arc<RootCertStore>,
    assurance: Assurance,
    algorithms: WebPkiSupportedAlgorithms,
}

impl TrustAnchors {
    /// Trust in the certificates of `roots`, and in those alone that they vouch for and that are of
    /// this kind. Nobody is trusted if there is no root.
    pub(crate) fn new(
        roots: RootCertStore,
        assurance: Assurance,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self {
            roots: Arc::new(roots),
            assurance,
            algorithms,
        }
    }

    /// Finds a path from `end_entity` to a trust anchor that is good for `usage` at `now`; what the
    /// certificate says then.
    pub(crate) fn verify(
        &self,
        usage: Usage,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Facts, Error> {
        let path = self.verify_path(usage, end_entity, intermediates, now);
        if let Err(error) = &path
            && !is_purpose(error)
        {
            return Err(error.clone().into());
        }
        let facts = Facts::read(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        // Told ahead of the wrong purpose that follows from it.
        self.assurance
            .check(facts.assurance)
            .map_err(|mismatch| CertificateError::Other(OtherError(Arc::new(mismatch))))?;
        path?;
        Ok(facts)
    }

    pub(crate) fn subjects(&self) -> Vec<DistinguishedName> {
        self.roots.subjects()
    }

    pub(crate) fn assurance(&self) -> Assurance {
        self.assurance
    }

    pub(crate) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }

    fn verify_path(
        &self,
        usage: Usage,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let key_usage = match (self.assurance, usage) {
            (Assurance::Production, Usage::Server) => KeyUsage::server_auth(),
            (Assurance::Production, Usage::Client) => KeyUsage::client_auth(),
            // webpki asks the CAs on the path too, which need not name a purpose (RFC 5280, section
            // 4.2.1.12); that the end entity does is for `Assurance::check`.
            (Assurance::Simulated, Usage::Server | Usage::Client) => {
                KeyUsage::required_if_present(oid::SIMULATED.der())
            }
        };
        EndEntityCert::try_from(end_entity)
            .and_then(|end_entity| {
                end_entity
                    .verify_for_usage(
                        self.algorithms.all,
                        &self.roots.roots,
                        intermediates,
                        now,
                        key_usage,
                        None,
                        None,
                    )
                    .map(drop)
            })
            .map_err(certificate_error)
    }
}

impl fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustAnchors")
            .field("roots", &self.roots.len())
            .field("assurance", &self.assurance)
            .finish_non_exhaustive()
    }
}

/// What a certificate must be good for (its extended key usage).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Usage {
    Server,
    Client,
}

fn is_purpose(error: &CertificateError) -> bool {
    matches!(error, CertificateError::InvalidPurposeContext { .. })
}
