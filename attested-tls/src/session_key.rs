use std::fmt;
use std::sync::Arc;

use attestation::Digest;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

use crate::error::AttestedTlsError;
use crate::raw_key::SCHEME;

/// The key that one side signs handshakes with: P-256, made at start, never written anywhere. It
/// leaves the memory of the cryptographic library in no form, which wipes it in the end.
#[derive(Clone)]
pub struct SessionKey {
    certified: Arc<CertifiedKey>,
    spki: CertificateDer<'static>,
}

impl SessionKey {
    /// A fresh random key.
    pub fn generate() -> Result<Self, AttestedTlsError> {
        let failed = |_| AttestedTlsError::Random;
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
        // rustls carries raw public keys in the place of certificates.
        let spki = CertificateDer::from(spki.as_ref().to_vec());
        let key = Key {
            pair: Arc::new(pair),
            spki: spki.clone(),
        };
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(vec![spki.clone()], Arc::new(key))),
            spki,
        })
    }

    /// SHA-256 of the `SubjectPublicKeyInfo`: what peers know the key by.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.spki)
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    #[cfg(test)]
    pub(crate) fn spki(&self) -> &CertificateDer<'static> {
        &self.spki
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({})", self.digest())
    }
}

#[derive(Clone)]
struct Key {
    pair: Arc<EcdsaKeyPair>,
    spki: CertificateDer<'static>,
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SCHEME)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.spki.as_ref()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| Error::General("signing failed".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}
