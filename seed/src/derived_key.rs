use std::fmt;

use aws_lc_rs::agreement::{ECDH_P384, PrivateKey};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use pem_rfc7468::LineEnding;
use zeroize::Zeroizing;

use crate::derivation::{Label, derive};
use crate::seed::SeedError;

/// An ECDSA P-384 key pair that one seed always gives again.
///
/// Its private half is wiped from memory when dropped.
pub struct DerivedKey {
    pkcs8: Zeroizing<Vec<u8>>,
    spki: Vec<u8>,
}

impl DerivedKey {
    /// Derives the key pair of `label`: candidates are derived with a one-byte counter as context,
    /// and the first that is a private key of the curve is taken (rejection sampling: FIPS 186-5,
    /// appendix A.2.2, without the addition of one).
    pub(crate) fn derive(secret: &[u8], label: Label) -> Result<Self, SeedError> {
        Self::new(&first_scalar(|counter, candidate| {
            derive(secret, label, &[counter], candidate);
        })?)
    }

    fn new(scalar: &Scalar) -> Result<Self, SeedError> {
        let key = PrivateKey::from_private_key(&ECDH_P384, scalar.as_slice())
            .map_err(|_| SeedError::Key)?;
        let public = key.compute_public_key().map_err(|_| SeedError::Key)?;
        let spki: PublicKeyX509Der<'_> = public.as_der().map_err(|_| SeedError::Key)?;
        let pkcs8: Pkcs8V1Der<'_> = key.as_der().map_err(|_| SeedError::Key)?;
        Ok(Self {
            pkcs8: Zeroizing::new(pkcs8.as_ref().to_vec()),
            spki: spki.as_ref().to_vec(),
        })
    }

    /// The private key as PKCS #8 (RFC 5958, version 1) in PEM form (`BEGIN PRIVATE KEY`).
    pub fn pkcs8_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(private_key_pem(&self.pkcs8))
    }

    /// The private key as PKCS #8 in DER form.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key as `SubjectPublicKeyInfo` (RFC 5280) in DER form.
    pub fn public_key_der(&self) -> &[u8] {
        &self.spki
    }
}

impl fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivedKey(..)")
    }
}

/// Encodes into a single buffer, so that the secret leaves no copies behind.
fn private_key_pem(pkcs8: &[u8]) -> String {
    pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, pkcs8)
        .expect("a key is far below the size limit of PEM")
}

type Scalar = Zeroizing<[u8; 48]>;

/// The first candidate in `1..order`.
///
/// The order is so close to 2^384 that a second candidate is needed once in 2^194 seeds.
fn first_scalar(mut candidate: impl FnMut(u8, &mut [u8; 48])) -> Result<Scalar, SeedError> {
    let mut scalar = Zeroizing::new([0; 48]);
    for counter in 0..=u8::MAX {
        candidate(counter, &mut scalar);
        if (ONE..ORDER).contains(&*scalar) {
            return Ok(scalar);
        }
    }
    Err(SeedError::Key)
}

const ONE: [u8; 48] = {
    let mut one = [0; 48];
    one[47] = 1;
    one
};

/// The order of P-384's group (SP 800-186, section 3.2.1.4), big-endian.
const ORDER: [u8; 48] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81, 0xf4, 0x37, 0x2d, 0xdf,
    0x58, 0x1a, 0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec, 0x19, 0x6a, 0xcc, 0xc5, 0x29, 0x73,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_out_of_range_are_skipped() {
        let mut below_order = ORDER;
        below_order[47] -= 1;
        let mut above_order = ORDER;
        above_order[47] += 1;
        let candidates = [[0; 48], ORDER, above_order, [0xff; 48], below_order, ONE];
        let scalar = first_scalar(|counter, out| *out = candidates[usize::from(counter)]).unwrap();
        assert_eq!(*scalar, below_order);
    }

    #[test]
    fn both_ends_of_the_range_are_keys_and_their_neighbours_are_not() {
        let mut below_order = ORDER;
        below_order[47] -= 1;
        assert!(DerivedKey::new(&Zeroizing::new(ONE)).is_ok());
        assert!(DerivedKey::new(&Zeroizing::new(below_order)).is_ok());
        // What decides is aws-lc here, which shows that ORDER is the curve's.
        assert!(DerivedKey::new(&Zeroizing::new(ORDER)).is_err());
        assert!(DerivedKey::new(&Zeroizing::new([0; 48])).is_err());
    }

    #[test]
    fn no_candidate_in_range_is_an_error() {
        assert!(matches!(
            first_scalar(|_, out| *out = ORDER),
            Err(SeedError::Key)
        ));
    }
}
