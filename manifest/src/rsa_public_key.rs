//! RSA public keys of seed-share owners.

use aws_lc_rs::rsa::PublicKey;
use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, RsaParameters};

/// Reads an RSA public key of 2048 to 8192 bits, as PKCS#1 `RSAPublicKey` (RFC 8017, appendix
/// A.1.1) or as X.509 `SubjectPublicKeyInfo`, both DER. Gives the former.
pub fn rsa_public_key(der: &[u8]) -> Result<Vec<u8>, RsaPublicKeyError> {
    let key = PublicKey::from_der(der).map_err(|_| RsaPublicKeyError::NotRsa)?;
    let pkcs1 = key.as_ref();
    let bits = RsaParameters::public_modulus_len(pkcs1).map_err(|_| RsaPublicKeyError::NotRsa)?;
    if bits < RSA_PSS_2048_8192_SHA256.min_modulus_len()
        || bits > RSA_PSS_2048_8192_SHA256.max_modulus_len()
    {
        return Err(RsaPublicKeyError::Size { bits });
    }
    Ok(pkcs1.to_vec())
}

/// Why bytes are not the public key of a seed-share owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RsaPublicKeyError {
    /// Another kind of key, a private one, or none.
    #[error("bytes that are no RSA public key")]
    NotRsa,
    /// Too short to be safe, or too long to be used.
    #[error("an RSA key of {bits} bits")]
    Size {
        /// Length of the modulus.
        bits: u32,
    },
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;

    use super::*;

    #[test]
    fn both_encodings_of_a_key_give_pkcs1() {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs1 = pair.public_key().as_ref();
        let spki = AsDer::as_der(pair.public_key()).unwrap();
        assert_ne!(spki.as_ref(), pkcs1);
        assert_eq!(rsa_public_key(pkcs1).unwrap(), pkcs1);
        assert_eq!(rsa_public_key(spki.as_ref()).unwrap(), pkcs1);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(rsa_public_key(b""), Err(RsaPublicKeyError::NotRsa));
        assert_eq!(rsa_public_key(&[0x30; 300]), Err(RsaPublicKeyError::NotRsa));
    }
}
