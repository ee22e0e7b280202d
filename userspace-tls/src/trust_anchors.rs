//! The certificates of `mesh-ca.pem` and what they vouch for.

use std::fmt;
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{DistinguishedName, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

/// One or more trust anchors; more than one while the mesh CA is being rotated.
#[derive(Clone)]
pub(crate) struct TrustAnchors {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl TrustAnchors {
    /// Fails if there is no root.
    pub(crate) fn new(
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let roots = Arc::new(roots);
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
                .build()?;
        Ok(Self {
            roots,
            clients,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// Finds a path from `end_entity` to a trust anchor that is good for `usage` at `now`.
    pub(crate) fn verify(
        &self,
        usage: Usage,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        match usage {
            Usage::Server => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &self.roots,
                intermediates,
                now,
                self.algorithms.all,
            ),
            Usage::Client => self
                .clients
                .verify_client_cert(end_entity, intermediates, now)
                .map(drop),
        }
    }

    pub(crate) fn subjects(&self) -> Vec<DistinguishedName> {
        self.roots.subjects()
    }

    pub(crate) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }
}

impl fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustAnchors")
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

/// What a certificate must be good for (its extended key usage).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Usage {
    Server,
    Client,
}
