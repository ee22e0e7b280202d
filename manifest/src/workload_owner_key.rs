//! Public keys of workload owners, whose signatures update the manifest.

use attestation::Digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ParsedPublicKey};

/// How the manifest names the owner of an ECDSA key on P-256 or P-384, given as
/// `SubjectPublicKeyInfo` (RFC 5480) with an uncompressed point, DER.
pub fn workload_owner(spki: &[u8]) -> Result<Digest, WorkloadOwnerKeyError> {
    let algorithm = match spki.len() {
        P256_SPKI_BYTES => &ECDSA_P256_SHA256_ASN1,
        P384_SPKI_BYTES => &ECDSA_P384_SHA384_ASN1,
        _ => return Err(WorkloadOwnerKeyError),
    };
    ParsedPublicKey::new(algorithm, spki).map_err(|_| WorkloadOwnerKeyError)?;
    Ok(Digest::of(spki))
}

/// Bytes are not the public key of a workload owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an ECDSA public key on P-256 or P-384")]
pub struct WorkloadOwnerKeyError;

/// One key has one length, and so one digest: compressed points and bare points are of others.
const P256_SPKI_BYTES: usize = 91;
const P384_SPKI_BYTES: usize = 120;

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
        ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
        KeyPair,
    };

    use super::*;

    fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> (Vec<u8>, Vec<u8>) {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        (spki.as_ref().to_vec(), pair.public_key().as_ref().to_vec())
    }

    #[test]
    fn an_owner_is_named_by_the_digest_of_its_key() {
        for algorithm in [
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &ECDSA_P384_SHA384_ASN1_SIGNING,
        ] {
            let (spki, _) = ecdsa(algorithm);
            assert_eq!(workload_owner(&spki), Ok(Digest::of(&spki)));
        }
    }

    #[test]
    fn what_can_sign_no_update_is_refused() {
        let (p521, _) = ecdsa(&ECDSA_P521_SHA512_ASN1_SIGNING);
        let (mut damaged, point) = ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING);
        *damaged.last_mut().unwrap() ^= 1;
        let ed25519 = Ed25519KeyPair::generate().unwrap();
        let ed25519: PublicKeyX509Der<'_> = ed25519.public_key().as_der().unwrap();
        for key in [&p521, &damaged, &point, ed25519.as_ref(), b""] {
            assert_eq!(
                workload_owner(key),
                Err(WorkloadOwnerKeyError),
                "{key:02x?}"
            );
        }
    }
}
