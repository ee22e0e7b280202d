use std::fmt;

use attestation::Digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::authorisation::Authorisation;
use crate::curve::Curve;

/// An owner's private key: ECDSA on P-256 or P-384.
pub struct OwnerKey {
    curve: Curve,
    key: EcdsaKeyPair,
}

impl OwnerKey {
    /// Reads an unencrypted key in PEM form, PKCS #8 (`BEGIN PRIVATE KEY`) or SEC 1 (RFC 5915,
    /// `BEGIN EC PRIVATE KEY`, with or without `EC PARAMETERS` before it).
    pub fn from_pem(pem: &str) -> Result<Self, OwnerKeyError> {
        // `openssl ecparam -genkey` writes a block with the curve's name first.
        let key = pem.find(SEC1_BEGIN).and_then(|at| pem.get(at..));
        let (label, der) = pem_rfc7468::decode_vec(key.unwrap_or(pem).as_bytes())
            .map_err(OwnerKeyError::NotPem)?;
        let der = Zeroizing::new(der);
        match label {
            "PRIVATE KEY" | "EC PRIVATE KEY" => {}
            "ENCRYPTED PRIVATE KEY" => return Err(OwnerKeyError::Encrypted),
            _ => return Err(OwnerKeyError::Label),
        }
        Curve::ALL
            .into_iter()
            .find_map(|curve| {
                let key = EcdsaKeyPair::from_private_key_der(curve.signing(), &der).ok()?;
                Some(Self { curve, key })
            })
            .ok_or(OwnerKeyError::Unsupported)
    }

    /// Consents to the manifest of an [`update_statement`](crate::update_statement).
    pub fn sign(&self, statement: &str) -> Result<Authorisation, OwnerSignError> {
        let signature = self
            .key
            .sign(&SystemRandom::new(), statement.as_bytes())
            .map_err(|_| OwnerSignError)?;
        Ok(Authorisation {
            key: self.public_key_der(),
            signature: signature.as_ref().to_vec(),
        })
    }

    /// The public key: `SubjectPublicKeyInfo` in DER form.
    pub fn public_key_der(&self) -> Vec<u8> {
        self.curve.spki(self.key.public_key().as_ref())
    }

    /// SHA-256 of the public key, which is how a manifest names its owner.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.public_key_der())
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerKey({})", self.digest())
    }
}

/// Why a text is not an owner's private key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OwnerKeyError {
    /// The text is not PEM.
    #[error("not a private key in PEM form: {0}")]
    NotPem(pem_rfc7468::Error),
    /// It needs a passphrase.
    #[error("the private key is encrypted; decrypt it first (`openssl pkey -in FILE`)")]
    Encrypted,
    /// Another PEM label, such as `CERTIFICATE` or `RSA PRIVATE KEY`.
    #[error("not an ECDSA private key (`BEGIN PRIVATE KEY` or `BEGIN EC PRIVATE KEY`)")]
    Label,
    /// RSA, `Ed25519`, another curve, or damaged.
    #[error("not an ECDSA private key on P-256 or P-384")]
    Unsupported,
}

/// The cryptographic library made no signature, most likely for want of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("cannot sign the statement")]
pub struct OwnerSignError;

const SEC1_BEGIN: &str = "-----BEGIN EC PRIVATE KEY-----";
