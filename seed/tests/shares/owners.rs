//! Seed-share owners with real RSA keys, made once for each test program.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey, PublicEncryptingKey, PublicKey};
use pem_rfc7468::LineEnding;

pub(crate) struct Owner {
    key: PrivateDecryptingKey,
    /// The private key in PEM form.
    pub(crate) pkcs8: String,
    /// The public key as PKCS #1 in DER form.
    pub(crate) public: Vec<u8>,
}

impl Owner {
    fn generate() -> Self {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let spki: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let public = PublicKey::from_der(spki.as_ref()).unwrap();
        Self {
            pkcs8: pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, pkcs8.as_ref())
                .unwrap(),
            public: public.as_ref().to_vec(),
            key,
        }
    }

    /// The public key as `SubjectPublicKeyInfo`.
    pub(crate) fn spki(&self) -> Vec<u8> {
        let spki: PublicKeyX509Der<'_> = self.key.public_key().as_der().unwrap();
        spki.as_ref().to_vec()
    }

    pub(crate) fn encrypting_key(&self) -> PublicEncryptingKey {
        self.key.public_key()
    }
}

/// The first `n` owners.
pub(crate) fn owners(n: usize) -> Vec<&'static Owner> {
    static OWNERS: [OnceLock<Owner>; 16] = [const { OnceLock::new() }; 16];
    OWNERS[..n]
        .iter()
        .map(|owner| owner.get_or_init(Owner::generate))
        .collect()
}
