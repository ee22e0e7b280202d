//! The keys of owners, made once for each test program.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey, PublicKey};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use history::OwnerKey;
use pem_rfc7468::LineEnding;
use seed::{Share, SharesDocument};

/// Who has a share of the seed.
pub(crate) struct ShareOwner {
    /// The private key, PEM.
    pub(crate) pem: String,
    /// The public key, PKCS #1, DER.
    pub(crate) public: Vec<u8>,
}

impl ShareOwner {
    fn generate() -> Self {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let spki: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let public = PublicKey::from_der(spki.as_ref()).unwrap();
        Self {
            pem: pem(pkcs8.as_ref()),
            public: public.as_ref().to_vec(),
        }
    }

    /// This owner's share of `seed-shares.json`.
    pub(crate) fn share(&self, document: &[u8]) -> Share {
        let document = SharesDocument::parse(document).unwrap();
        document.decrypt(&self.pem).unwrap()
    }
}

/// The first `count` share owners.
pub(crate) fn share_owners(count: usize) -> Vec<&'static ShareOwner> {
    static OWNERS: [OnceLock<ShareOwner>; 6] = [const { OnceLock::new() }; 6];
    OWNERS[..count]
        .iter()
        .map(|it| it.get_or_init(ShareOwner::generate))
        .collect()
}

/// The first `count` workload owners.
pub(crate) fn workload_owners(count: usize) -> Vec<&'static OwnerKey> {
    static OWNERS: [OnceLock<OwnerKey>; 6] = [const { OnceLock::new() }; 6];
    OWNERS[..count]
        .iter()
        .enumerate()
        .map(|(number, it)| {
            it.get_or_init(|| OwnerKey::from_pem(workload_owner_pem(number)).unwrap())
        })
        .collect()
}

/// The private key of a workload owner, PEM.
pub(crate) fn workload_owner_pem(number: usize) -> &'static str {
    static KEYS: [OnceLock<String>; 6] = [const { OnceLock::new() }; 6];
    KEYS[number].get_or_init(|| {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
        pem(key.unwrap().as_ref())
    })
}

fn pem(pkcs8: &[u8]) -> String {
    pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, pkcs8).unwrap()
}
