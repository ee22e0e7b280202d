//! The keys that certificates are asked for.

use std::fmt;

use attestation::Digest;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use pem_rfc7468::LineEnding;
use thiserror::Error;
use zeroize::Zeroizing;

/// A private key of one workload: P-256, made here, wiped when dropped.
pub(crate) struct WorkloadKey {
    pem: Zeroizing<String>,
    spki: Vec<u8>,
}

impl WorkloadKey {
    /// A fresh random key.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        let failed = |_| KeyError;
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
        let spki = spki.as_ref().to_vec();
        let pkcs8 = pair.to_pkcs8v1().map_err(failed)?;
        let pem = pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, pkcs8.as_ref())
            .map_err(|_| KeyError)?;
        Ok(Self {
            pem: Zeroizing::new(pem),
            spki,
        })
    }

    /// `SubjectPublicKeyInfo`, DER.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of [`WorkloadKey::spki`]: what evidence vouches for.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.spki)
    }

    /// PKCS #8, PEM.
    pub(crate) fn pem(&self) -> &[u8] {
        self.pem.as_bytes()
    }
}

impl fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkloadKey({})", self.digest())
    }
}

/// The cryptographic library made no key, most likely for want of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("cannot make a key for the workload")]
pub(crate) struct KeyError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_differ_and_debug_output_has_no_secret() {
        let (one, two) = (
            WorkloadKey::generate().unwrap(),
            WorkloadKey::generate().unwrap(),
        );
        assert_ne!(one.digest(), two.digest());
        let (label, pkcs8) = pem_rfc7468::decode_vec(one.pem()).unwrap();
        assert_eq!(label, "PRIVATE KEY");
        let again = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).unwrap();
        let spki: PublicKeyX509Der<'_> = again.public_key().as_der().unwrap();
        assert_eq!(spki.as_ref(), one.spki());
        assert_eq!(format!("{one:?}"), format!("WorkloadKey({})", one.digest()));
    }
}
