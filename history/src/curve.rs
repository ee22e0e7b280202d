//! The elliptic curves of signing keys, and how their public keys are written.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA384_ASN1,
    ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING,
    EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
}

impl Curve {
    pub(crate) const ALL: [Self; 2] = [Self::P256, Self::P384];

    /// The curve of a `SubjectPublicKeyInfo` (RFC 5480) with an uncompressed point, which has only
    /// one DER form for each key. Whether the point is on the curve is not checked.
    pub(crate) fn of_spki(der: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| {
            der.strip_prefix(curve.spki_prefix())
                .is_some_and(|point| point.len() == curve.point_len() && point.starts_with(&[4]))
        })
    }

    /// The `SubjectPublicKeyInfo` of an uncompressed point.
    pub(crate) fn spki(self, point: &[u8]) -> Vec<u8> {
        [self.spki_prefix(), point].concat()
    }

    /// How keys of the curve sign here: with the hash function of the curve's strength.
    pub(crate) fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        }
    }

    /// How keys of the curve may sign elsewhere.
    pub(crate) fn verification(self) -> [&'static EcdsaVerificationAlgorithm; 2] {
        match self {
            Self::P256 => [&ECDSA_P256_SHA256_ASN1, &ECDSA_P256_SHA384_ASN1],
            Self::P384 => [&ECDSA_P384_SHA384_ASN1, &ECDSA_P384_SHA256_ASN1],
        }
    }

    /// Everything of a `SubjectPublicKeyInfo` before the point.
    fn spki_prefix(self) -> &'static [u8] {
        match self {
            Self::P256 => P256_PREFIX,
            Self::P384 => P384_PREFIX,
        }
    }

    fn point_len(self) -> usize {
        match self {
            Self::P256 => 65,
            Self::P384 => 97,
        }
    }
}

const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

const P384_PREFIX: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair};

    use super::*;

    #[test]
    fn the_form_of_public_keys_is_that_of_the_cryptographic_library() {
        for curve in Curve::ALL {
            let key = EcdsaKeyPair::generate(curve.signing()).unwrap();
            let spki: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
            assert_eq!(curve.spki(key.public_key().as_ref()), spki.as_ref());
            assert_eq!(Curve::of_spki(spki.as_ref()), Some(curve));
        }
    }

    #[test]
    fn what_is_no_spki_has_no_curve() {
        let key = EcdsaKeyPair::generate(Curve::P256.signing()).unwrap();
        let point = key.public_key().as_ref();
        assert_eq!(Curve::of_spki(point), None);
        let spki = Curve::P256.spki(point);
        for len in 0..spki.len() {
            assert_eq!(Curve::of_spki(&spki[..len]), None);
        }
        assert_eq!(Curve::of_spki(&[&spki[..], &[0]].concat()), None);
        // A compressed point, in the length of an uncompressed one.
        let mut compressed = spki;
        compressed[26] = 2;
        assert_eq!(Curve::of_spki(&compressed), None);
    }
}
