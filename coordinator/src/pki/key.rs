use std::fmt;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData};
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::pem;

/// An ECDSA private key, wiped from memory when dropped.
pub struct PrivateKey(KeyPair);

impl PrivateKey {
    /// A fresh random key.
    pub fn generate(curve: Curve) -> Result<Self, KeyError> {
        KeyPair::generate_for(curve.signature_algorithm())
            .map(Self)
            .map_err(KeyError::Generate)
    }

    /// Reads an unencrypted PKCS #8 key (`BEGIN PRIVATE KEY`) on P-256 or P-384.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let (label, der) = pem_rfc7468::decode_vec(pem.as_bytes()).map_err(KeyError::NotPem)?;
        let der = Zeroizing::new(der);
        if label != pem::PRIVATE_KEY {
            return Err(KeyError::Label);
        }
        let pkcs8 = PrivatePkcs8KeyDer::from(der.as_slice());
        [Curve::P256, Curve::P384]
            .into_iter()
            .find_map(|curve| {
                KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, curve.signature_algorithm()).ok()
            })
            .map(Self)
            .ok_or(KeyError::Unsupported)
    }

    /// The key as PKCS #8 in PEM form.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode(pem::PRIVATE_KEY, self.0.serialized_der()))
    }

    /// What a certificate says about the key.
    pub fn public_key(&self) -> SubjectPublicKeyInfoDer<'static> {
        self.0.subject_public_key_info().into()
    }

    pub(super) fn signer(&self) -> &KeyPair {
        &self.0
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// The elliptic curves in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256, for workloads.
    P256,
    /// NIST P-384, for CAs.
    P384,
}

impl Curve {
    fn signature_algorithm(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::P256 => &PKCS_ECDSA_P256_SHA256,
            Self::P384 => &PKCS_ECDSA_P384_SHA384,
        }
    }
}

/// Why there is no private key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The operating system gave no random bytes, most likely.
    #[error("cannot generate a private key")]
    Generate(#[source] rcgen::Error),
    /// The text is not PEM.
    #[error("not a private key in PEM form: {0}")]
    NotPem(pem_rfc7468::Error),
    /// Another PEM label, such as `EC PRIVATE KEY` or `ENCRYPTED PRIVATE KEY`.
    #[error("not an unencrypted PKCS #8 key (`BEGIN {}`)", pem::PRIVATE_KEY)]
    Label,
    /// RSA, `Ed25519`, another curve, or damaged.
    #[error("not an ECDSA key on P-256 or P-384")]
    Unsupported,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_pem() {
        for curve in [Curve::P256, Curve::P384] {
            let key = PrivateKey::generate(curve).unwrap();
            let read = PrivateKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(read.public_key(), key.public_key());
        }
    }

    #[test]
    fn debug_output_has_no_secret() {
        let key = PrivateKey::generate(Curve::P256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    }

    #[test]
    fn another_label_or_garbage_is_refused() {
        let pem = PrivateKey::generate(Curve::P256).unwrap().to_pem();
        let sec1 = pem.replace("PRIVATE KEY", "EC PRIVATE KEY");
        assert!(matches!(PrivateKey::from_pem(&sec1), Err(KeyError::Label)));
        assert!(matches!(PrivateKey::from_pem(""), Err(KeyError::NotPem(_))));
        let garbage = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(
            PrivateKey::from_pem(garbage),
            Err(KeyError::Unsupported)
        ));
    }
}
