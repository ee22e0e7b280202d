//! Labelled derivation: HKDF-SHA384 (RFC 5869) of the seed.
//!
//! The salt is fixed. The info is `length of the label (1 byte) || label || context`, so that no two
//! pairs of label and context give the same info. A label or the salt is never changed in place:
//! what is derived differently has another label, with another version.

use aws_lc_rs::hkdf::{HKDF_SHA384, KeyType, Salt};

/// What is derived.
#[derive(Clone, Copy)]
pub(crate) enum Label {
    RootCaKey,
    TransitionKey,
    WorkloadSecret,
    CheckValue,
}

impl Label {
    fn text(self) -> &'static str {
        match self {
            Self::RootCaKey => "root CA key v1",
            Self::TransitionKey => "transition key v1",
            Self::WorkloadSecret => "workload secret v1",
            Self::CheckValue => "check value v1",
        }
    }
}

/// Fills `out` with what `secret` gives for `label` and `context`.
pub(crate) fn derive<const N: usize>(
    secret: &[u8],
    label: Label,
    context: &[u8],
    out: &mut [u8; N],
) {
    const {
        assert!(N <= 64, "HKDF gives at most 255 times 48 bytes");
    };
    let text = label.text().as_bytes();
    Salt::new(HKDF_SHA384, SALT)
        .extract(secret)
        .expand(&[&[text.len() as u8], text, context], Length(N))
        .and_then(|output| output.fill(out))
        .expect("HKDF fails only on lengths above its limit");
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

const SALT: &[u8] = b"sealwire seed";
