//! Owners of the seed.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use pem_rfc7468::LineEnding;

/// Who holds a share of the seed.
pub struct RsaOwner {
    /// PKCS #1 DER.
    pub public: Vec<u8>,
    /// PKCS #8 PEM.
    pub private_pem: String,
}

impl RsaOwner {
    /// An owner with a new key.
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der = pair.as_der().expect("a key, DER");
        let pem = pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, der.as_ref());
        Self {
            public: pair.public_key().as_ref().to_vec(),
            private_pem: pem.expect("PEM"),
        }
    }
}
