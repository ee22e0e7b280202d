//! A workload's certificate, key and trust anchors, as PEM files hold them.
//!
//! Everything that a peer would refuse is refused here, with the file to mend; except that the time
//! is not looked at, because an expired certificate is renewed while a wrong one is corrected.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use attestation::identity::SpiffeId;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::assurance::{Assurance, AssuranceMismatch};
use crate::certificate::{Facts, IdentityProblem};
use crate::config::provider;
use crate::trust_anchors::{TrustAnchors, Usage};

/// A certificate chain with its key and the trust anchors, checked against each other.
pub struct Credentials {
    pub(crate) certified_key: CertifiedKey,
    pub(crate) trust_anchors: TrustAnchors,
    pub(crate) identity: SpiffeId,
    pub(crate) validity: Validity,
}

impl Credentials {
    /// Reads the contents of `certChain.pem` (the leaf first), `key.pem` (PKCS #8, SEC 1 or PKCS #1)
    /// and `mesh-ca.pem` (any number of trust anchors). A certificate that rests on a simulated TEE
    /// is refused, here as at peers.
    pub fn from_pem(
        cert_chain: &[u8],
        key: &[u8],
        mesh_ca: &[u8],
    ) -> Result<Self, CredentialsError> {
        Self::load(Assurance::Production, cert_chain, key, mesh_ca)
    }

    /// The same for a mesh whose TEEs are all simulated: every other certificate is refused, here
    /// as at peers. Nothing protects such a mesh from its machines' owners.
    pub fn simulated_from_pem(
        cert_chain: &[u8],
        key: &[u8],
        mesh_ca: &[u8],
    ) -> Result<Self, CredentialsError> {
        Self::load(Assurance::Simulated, cert_chain, key, mesh_ca)
    }

    fn load(
        assurance: Assurance,
        cert_chain: &[u8],
        key: &[u8],
        mesh_ca: &[u8],
    ) -> Result<Self, CredentialsError> {
        let provider = provider();
        let chain = certificates(CredentialsFile::CertChain, cert_chain)?;
        let key = private_key(key)?;
        let trust_anchors = trust_anchors(
            mesh_ca,
            assurance,
            provider.signature_verification_algorithms,
        )?;

        let facts = chain
            .iter()
            .map(Facts::read)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CredentialsError::BadCertificate(CredentialsFile::CertChain))?;
        let [leaf, issuers @ ..] = facts.as_slice() else {
            return Err(CredentialsError::NoCertificate(CredentialsFile::CertChain));
        };
        let certified_key = certified_key(chain, key, &provider)?;
        if leaf.is_ca {
            return Err(CredentialsError::LeafIsCa {
                subject: leaf.subject.clone(),
            });
        }
        assurance.check(leaf.assurance)?;
        let identity = leaf
            .identity
            .clone()
            .map_err(CredentialsError::NoIdentity)?;
        let validity = issuers.iter().fold(leaf.validity, |validity, issuer| {
            validity.intersection(issuer.validity)
        });
        verify_own_chain(&trust_anchors, &certified_key.cert, leaf, validity)?;
        Ok(Self {
            certified_key,
            trust_anchors,
            identity,
            validity,
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

/// From when until when a whole certificate chain is valid, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The latest `notBefore` of the chain.
    pub not_before: SystemTime,
    /// The earliest `notAfter` of the chain.
    pub not_after: SystemTime,
}

impl Validity {
    /// Whether the chain is valid at `now`.
    pub fn contains(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    pub(crate) fn intersection(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }
}

/// The file that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialsFile {
    /// `certChain.pem`
    CertChain,
    /// `key.pem`
    Key,
    /// `mesh-ca.pem`
    MeshCa,
}

impl fmt::Display for CredentialsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CertChain => "certChain.pem",
            Self::Key => "key.pem",
            Self::MeshCa => "mesh-ca.pem",
        })
    }
}

/// Why a set of files is unusable.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file has no contents: perhaps it is being written.
    #[error("{0} is empty")]
    Empty(CredentialsFile),
    /// The file is DER.
    #[error("{file} is DER, not PEM; convert it with `openssl {command} -inform DER -in <file>`")]
    Der {
        /// Which file.
        file: CredentialsFile,
        /// The `openssl` command that converts it.
        command: &'static str,
    },
    /// The file holds no PEM section at all.
    #[error("{0} is not PEM: it has no `-----BEGIN` line")]
    NotPem(CredentialsFile),
    /// A PEM section is damaged.
    #[error("cannot read the PEM of {file}: {problem}")]
    BadPem {
        /// Which file.
        file: CredentialsFile,
        /// What the parser objects to.
        problem: pem::Error,
    },
    /// The file is PEM, but of something else.
    #[error("{0} contains no certificate (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate(CredentialsFile),
    /// The file is PEM, but of something else, or its key is encrypted.
    #[error(
        "key.pem contains no private key (`-----BEGIN PRIVATE KEY-----`); \
         decrypt an encrypted key with `openssl pkey -in <file>`"
    )]
    NoKey,
    /// A certificate is not X.509.
    #[error("{0} contains a certificate that is not well-formed X.509")]
    BadCertificate(CredentialsFile),
    /// The key's algorithm or form is not supported.
    #[error("key.pem has an unsupported key, ECDSA P-256 is the usual one: {0}")]
    UnsupportedKey(rustls::Error),
    /// The key belongs to a later certificate of the chain.
    #[error(
        "certChain.pem is in the wrong order: key.pem belongs to certificate {position} of it, \
         which must come first"
    )]
    WrongOrder {
        /// The position of the leaf, counted from 1.
        position: usize,
    },
    /// The key belongs to no certificate of the chain.
    #[error("key.pem does not match the first certificate of certChain.pem (subject {subject:?})")]
    KeyMismatch {
        /// The subject of the first certificate.
        subject: String,
    },
    /// The first certificate is a CA certificate.
    #[error(
        "the first certificate of certChain.pem (subject {subject:?}) is a CA certificate, \
         the workload's own must come first"
    )]
    LeafIsCa {
        /// The subject of the first certificate.
        subject: String,
    },
    /// The leaf does not carry exactly one SPIFFE ID.
    #[error("the first certificate of certChain.pem has no SPIFFE ID: {0}")]
    NoIdentity(IdentityProblem),
    /// The leaf rests on a simulated TEE.
    #[error(
        "the first certificate of certChain.pem rests on a simulated TEE, which protects nothing; \
         only a workload that allows simulated TEEs can use it"
    )]
    Simulated,
    /// The leaf does not rest on a simulated TEE.
    #[error(
        "the first certificate of certChain.pem does not rest on a simulated TEE, but this \
         workload is to meet simulated ones alone; a certificate of hardware is not for them"
    )]
    NotSimulated,
    /// No path from the leaf to a trust anchor.
    #[error(
        "the first certificate of certChain.pem (issuer {issuer:?}) does not chain to any \
         certificate of mesh-ca.pem; add the missing intermediates or use the matching mesh CA"
    )]
    NotFromMeshCa {
        /// The issuer of the leaf.
        issuer: String,
    },
    /// The chain leads to a trust anchor but peers would refuse it.
    #[error("certChain.pem would be refused by its peers: {0}")]
    Refused(rustls::Error),
    /// rustls refuses the configuration.
    #[error("cannot configure TLS: {0}")]
    Configuration(#[from] rustls::Error),
}

impl From<AssuranceMismatch> for CredentialsError {
    fn from(mismatch: AssuranceMismatch) -> Self {
        match mismatch {
            AssuranceMismatch::Simulated => Self::Simulated,
            AssuranceMismatch::NotSimulated => Self::NotSimulated,
        }
    }
}

fn certificates(
    file: CredentialsFile,
    contents: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    expect_pem(file, contents)?;
    let certificates = CertificateDer::pem_slice_iter(contents)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|problem| CredentialsError::BadPem { file, problem })?;
    if certificates.is_empty() {
        return Err(CredentialsError::NoCertificate(file));
    }
    Ok(certificates)
}

fn private_key(contents: &[u8]) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    let file = CredentialsFile::Key;
    expect_pem(file, contents)?;
    PrivateKeyDer::from_pem_slice(contents).map_err(|problem| match problem {
        pem::Error::NoItemsFound => CredentialsError::NoKey,
        problem => CredentialsError::BadPem { file, problem },
    })
}

fn trust_anchors(
    contents: &[u8],
    assurance: Assurance,
    algorithms: WebPkiSupportedAlgorithms,
) -> Result<TrustAnchors, CredentialsError> {
    let file = CredentialsFile::MeshCa;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, contents)? {
        roots
            .add(certificate)
            .map_err(|_| CredentialsError::BadCertificate(file))?;
    }
    Ok(TrustAnchors::new(roots, assurance, algorithms))
}

fn expect_pem(file: CredentialsFile, contents: &[u8]) -> Result<(), CredentialsError> {
    if contents.trim_ascii().is_empty() {
        return Err(CredentialsError::Empty(file));
    }
    if contents
        .windows(PEM_BEGIN.len())
        .any(|window| window == PEM_BEGIN)
    {
        return Ok(());
    }
    if !contents.starts_with(DER_SEQUENCE) {
        return Err(CredentialsError::NotPem(file));
    }
    let command = match file {
        CredentialsFile::Key => "pkey",
        CredentialsFile::CertChain | CredentialsFile::MeshCa => "x509",
    };
    Err(CredentialsError::Der { file, command })
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CredentialsError> {
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(CredentialsError::UnsupportedKey)?;
    let matches = |first: usize| {
        let chain = chain[first..].to_vec();
        CertifiedKey::new(chain, Arc::clone(&key)).keys_match()
            != Err(InconsistentKeys::KeyMismatch.into())
    };
    if matches(0) {
        return Ok(CertifiedKey::new(chain, key));
    }
    Err(match (1..chain.len()).find(|&first| matches(first)) {
        Some(index) => CredentialsError::WrongOrder {
            position: index + 1,
        },
        None => CredentialsError::KeyMismatch {
            subject: Facts::read(&chain[0])
                .map(|facts| facts.subject)
                .unwrap_or_default(),
        },
    })
}

/// Verified at a time at which the whole chain is valid, if there is one.
fn verify_own_chain(
    trust_anchors: &TrustAnchors,
    chain: &[CertificateDer<'static>],
    leaf: &Facts,
    validity: Validity,
) -> Result<(), CredentialsError> {
    let time = validity
        .not_before
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let time = UnixTime::since_unix_epoch(time);
    for usage in [Usage::Server, Usage::Client] {
        match trust_anchors.verify(usage, &chain[0], &chain[1..], time) {
            Ok(_)
            | Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => {}
            Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                return Err(CredentialsError::NotFromMeshCa {
                    issuer: leaf.issuer.clone(),
                });
            }
            Err(error) => return Err(CredentialsError::Refused(error)),
        }
    }
    Ok(())
}

/// What every DER certificate and key begins with.
const DER_SEQUENCE: &[u8] = &[0x30];

const PEM_BEGIN: &[u8] = b"-----BEGIN ";

#[cfg(test)]
mod tests;
