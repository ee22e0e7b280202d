//! Verification of a peer's certificate chain, in both directions.
//!
//! A peer is who its SPIFFE ID says, so names and addresses are not matched. Whether that SPIFFE ID
//! may talk to this workload is for the caller to decide.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::Facts;
use crate::config::ClientAuth;
use crate::credentials::Validity;
use crate::refusal::PresentedCertificate;
use crate::trust_anchors::{TrustAnchors, Usage};

/// Verifies chains against the trust anchors of one workload; remembers those that verified.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    trust_anchors: TrustAnchors,
    verified: Mutex<HashMap<ChainDigest, Validity>>,
}

impl PeerVerifier {
    pub(crate) fn new(trust_anchors: TrustAnchors) -> Self {
        Self {
            trust_anchors,
            verified: Mutex::default(),
        }
    }

    /// The time is checked against every presented certificate, also those that the path did not
    /// need: then the chain is verified anew, which never accepts more.
    pub(crate) fn verify_chain(
        &self,
        usage: Usage,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let digest = ChainDigest::new(usage, end_entity, intermediates);
        if self
            .verified()
            .get(&digest)
            .is_some_and(|validity| validity.contains(at(now)))
        {
            return Ok(());
        }
        let validity = self
            .verify_afresh(usage, end_entity, intermediates, now)
            .inspect_err(|_| remember_refused(end_entity))?;
        let mut verified = self.verified();
        if verified.len() >= REMEMBERED_CHAINS {
            verified.clear();
        }
        verified.insert(digest, validity);
        Ok(())
    }

    fn verify_afresh(
        &self,
        usage: Usage,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Validity, Error> {
        let facts = self
            .trust_anchors
            .verify(usage, end_entity, intermediates, now)?;
        if let Err(problem) = facts.identity {
            return Err(CertificateError::Other(OtherError(Arc::new(problem))).into());
        }
        intermediates
            .iter()
            .try_fold(facts.validity, |validity, certificate| {
                let facts = Facts::read(certificate).map_err(|_| CertificateError::BadEncoding)?;
                Ok(validity.intersection(facts.validity))
            })
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<ChainDigest, Validity>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            self.trust_anchors.algorithms(),
        )
        .inspect_err(|_| remember_refused(certificate))
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_chain(Usage::Server, end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust_anchors.algorithms().supported_schemes()
    }
}

/// The [`PeerVerifier`] as one kind of server uses it.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    peers: Arc<PeerVerifier>,
    client_auth: ClientAuth,
    /// Clients with several certificates choose theirs by these names.
    hints: Vec<DistinguishedName>,
}

impl ClientVerifier {
    pub(crate) fn new(peers: Arc<PeerVerifier>, client_auth: ClientAuth) -> Self {
        let hints = peers.trust_anchors.subjects();
        Self {
            peers,
            client_auth,
            hints,
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.peers
            .verify_chain(Usage::Client, end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.peers.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.peers.trust_anchors.algorithms().supported_schemes()
    }
}

/// The certificate that the verifier refused last on this thread, if any since the last call.
///
/// rustls takes a verifier's error apart to choose the alert and keeps no certificate, so the
/// operator's detail travels beside it. Verification runs inside the call that drives the handshake.
pub(crate) fn take_refused() -> Option<PresentedCertificate> {
    REFUSED.take()
}

fn remember_refused(certificate: &CertificateDer<'_>) {
    REFUSED.set(
        Facts::read(certificate)
            .ok()
            .map(PresentedCertificate::from),
    );
}

thread_local! {
    static REFUSED: RefCell<Option<PresentedCertificate>> = const { RefCell::new(None) };
}

/// SHA-256 over the usage and the length-prefixed certificates of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ChainDigest([u8; digest::SHA256_OUTPUT_LEN]);

impl ChainDigest {
    fn new(
        usage: Usage,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&[usage as u8]);
        for certificate in std::iter::once(end_entity).chain(intermediates) {
            context.update(&(certificate.len() as u64).to_be_bytes());
            context.update(certificate);
        }
        let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

fn at(now: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

/// About 100 KiB. A mesh member that presents ever new chains costs its peers their memory of the
/// others, nothing more.
const REMEMBERED_CHAINS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Credentials;
    use crate::testing::{Ca, Leaf};

    #[test]
    fn a_verified_chain_is_remembered_for_its_usage_and_while_it_is_valid() {
        let ca = Ca::new("mesh");
        let (verifier, leaf) = verifier(&ca);
        let now = UnixTime::now();
        verifier
            .verify_chain(Usage::Server, &leaf, &[], now)
            .unwrap();
        assert_eq!(verifier.verified().len(), 1);
        verifier
            .verify_chain(Usage::Server, &leaf, &[], now)
            .unwrap();
        assert_eq!(verifier.verified().len(), 1);
        verifier
            .verify_chain(Usage::Client, &leaf, &[], now)
            .unwrap();
        assert_eq!(verifier.verified().len(), 2);

        let tomorrow = Duration::from_secs(now.as_secs()) + Duration::from_hours(24);
        let error = verifier
            .verify_chain(
                Usage::Server,
                &leaf,
                &[],
                UnixTime::since_unix_epoch(tomorrow),
            )
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
            ),
            "{error}"
        );
    }

    #[test]
    fn a_remembered_chain_is_not_verified_again() {
        let ca = Ca::new("mesh");
        let (verifier, _) = verifier(&ca);
        let (_, foreign) = self::verifier(&Ca::new("foreign"));
        let (not_before, not_after) = (
            SystemTime::UNIX_EPOCH,
            SystemTime::now() + Duration::from_hours(1),
        );
        let digest = ChainDigest::new(Usage::Server, &foreign, &[]);
        verifier.verified().insert(
            digest,
            Validity {
                not_before,
                not_after,
            },
        );
        verifier
            .verify_chain(Usage::Server, &foreign, &[], UnixTime::now())
            .unwrap();
        verifier
            .verify_chain(Usage::Client, &foreign, &[], UnixTime::now())
            .unwrap_err();
    }

    #[test]
    fn a_refused_chain_is_not_remembered() {
        let (verifier, _) = verifier(&Ca::new("mesh"));
        let (_, foreign) = self::verifier(&Ca::new("foreign"));
        verifier
            .verify_chain(Usage::Server, &foreign, &[], UnixTime::now())
            .unwrap_err();
        assert!(verifier.verified().is_empty());
        assert_eq!(take_refused().unwrap().issuer, "CN=foreign");
        assert_eq!(take_refused(), None);
    }

    #[test]
    fn the_memory_of_chains_is_bounded() {
        let ca = Ca::new("mesh");
        let (verifier, leaf) = verifier(&ca);
        let validity = Validity {
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
        };
        for index in 0..REMEMBERED_CHAINS {
            let mut digest = ChainDigest([0; 32]);
            digest.0[..8].copy_from_slice(&(index as u64).to_be_bytes());
            verifier.verified().insert(digest, validity);
        }
        verifier
            .verify_chain(Usage::Server, &leaf, &[], UnixTime::now())
            .unwrap();
        assert_eq!(verifier.verified().len(), 1);
    }

    #[test]
    fn where_one_certificate_ends_and_the_next_begins_is_part_of_the_digest() {
        let certificate = |bytes: &[u8]| CertificateDer::from(bytes.to_vec());
        let digest = |leaf: &[u8], rest: &[&[u8]]| {
            let rest: Vec<_> = rest.iter().map(|bytes| certificate(bytes)).collect();
            ChainDigest::new(Usage::Server, &certificate(leaf), &rest)
        };
        assert_ne!(digest(b"ab", &[b"c"]), digest(b"a", &[b"bc"]));
        assert_ne!(digest(b"ab", &[b"c"]), digest(b"abc", &[]));
    }

    fn verifier(ca: &Ca) -> (PeerVerifier, CertificateDer<'static>) {
        let issued = ca.issue(&Leaf::workload("a"));
        let credentials = Credentials::from_pem(
            issued.chain.as_bytes(),
            issued.key.as_bytes(),
            ca.pem().as_bytes(),
        )
        .unwrap();
        let leaf = credentials.certified_key.cert[0].clone();
        (PeerVerifier::new(credentials.trust_anchors), leaf)
    }
}
