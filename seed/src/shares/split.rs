//! Splitting: a seed becomes one encrypted share for each owner.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKey,
};
use blahaj::Sharks;
use thiserror::Error;
use zeroize::Zeroizing;

use super::document::{EncryptedShare, SharesDocument};
use super::share::{SetId, Share};
use crate::seed::Seed;

/// Splits `seed` such that `threshold` of the `owners` can give it back, and fewer learn nothing
/// (Shamir's secret sharing over GF(256)).
///
/// An owner is an RSA public key of 2048 to 8192 bits, as PKCS #1 `RSAPublicKey` (RFC 8017) in DER
/// form. The first owner gets share 1. Each share is encrypted with RSA-OAEP, SHA-256, MGF1 with
/// SHA-256, and the label `seedshare`.
///
/// With a threshold of 1 every owner has the whole seed, as Contrast's owners do.
pub fn split(
    seed: &Seed,
    owners: &[Vec<u8>],
    threshold: usize,
) -> Result<SharesDocument, SplitError> {
    if !(1..=MAX_SHARES).contains(&owners.len()) {
        return Err(SplitError::Owners { got: owners.len() });
    }
    let threshold = match u8::try_from(threshold) {
        Ok(small @ 1..) if threshold <= owners.len() => small,
        _ => {
            return Err(SplitError::Threshold {
                got: threshold,
                owners: owners.len(),
            });
        }
    };
    // Every key is judged before any share exists.
    let keys = owner_keys(owners)?;
    let mut set = SetId([0; 16]);
    rand::fill(&mut set.0).map_err(|_| SplitError::Random)?;

    let mut shares = Vec::with_capacity(owners.len());
    for (key, point) in keys
        .into_iter()
        .zip(Sharks(threshold).dealer(seed.expose_bytes()))
    {
        // blahaj's form of a share is its index, counted from 1, and then its value.
        let point = Zeroizing::new(Vec::from(&point));
        let mut share = Share {
            set,
            index: shares.len() as u8 + 1,
            threshold,
            value: Box::new(Zeroizing::new([0; Seed::LEN])),
        };
        match point.split_first() {
            Some((&index, value)) if index == share.index && value.len() == Seed::LEN => {
                share.value.copy_from_slice(value);
            }
            _ => return Err(SplitError::Encrypt { index: share.index }),
        }
        shares.push(EncryptedShare {
            commitment: share.commitment(),
            ciphertext: key
                .encrypt(&share.encode())
                .ok_or(SplitError::Encrypt { index: share.index })?,
            owner: key,
        });
    }
    Ok(SharesDocument::new(
        set,
        threshold,
        seed.check_value(),
        shares,
    ))
}

fn owner_keys(owners: &[Vec<u8>]) -> Result<Vec<OwnerPublicKey>, SplitError> {
    for (position, owner) in owners.iter().enumerate() {
        if let Some(first) = owners
            .iter()
            .take(position)
            .position(|other| other == owner)
        {
            return Err(SplitError::DuplicateOwner {
                first: first + 1,
                second: position + 1,
            });
        }
    }
    owners
        .iter()
        .enumerate()
        .map(|(position, owner)| {
            OwnerPublicKey::from_pkcs1(owner).map_err(|error| SplitError::Owner {
                position: position + 1,
                error,
            })
        })
        .collect()
}

/// An RSA public key that a share can be encrypted to.
#[derive(Clone, Debug)]
pub(crate) struct OwnerPublicKey {
    pkcs1: Vec<u8>,
    key: PublicEncryptingKey,
}

impl OwnerPublicKey {
    /// Reads PKCS #1 in DER form, and no other form: the manifest, the document and the owner's
    /// private key are compared by these bytes.
    pub(crate) fn from_pkcs1(der: &[u8]) -> Result<Self, PublicKeyError> {
        let public = PublicKey::from_der(der).map_err(|_| PublicKeyError::NotRsa)?;
        if public.as_ref() != der {
            return Err(PublicKeyError::NotPkcs1);
        }
        let spki: PublicKeyX509Der<'_> = public.as_der().map_err(|_| PublicKeyError::NotRsa)?;
        Ok(Self {
            pkcs1: der.to_vec(),
            key: PublicEncryptingKey::from_der(spki.as_ref()).map_err(|_| PublicKeyError::Size)?,
        })
    }

    /// The key as PKCS #1 in DER form.
    pub(crate) fn pkcs1(&self) -> &[u8] {
        &self.pkcs1
    }

    /// How long a ciphertext is, in bytes.
    pub(crate) fn ciphertext_len(&self) -> usize {
        self.key.key_size_bytes()
    }

    fn encrypt(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let mut ciphertext = vec![0; self.ciphertext_len()];
        let len = OaepPublicEncryptingKey::new(self.key.clone())
            .and_then(|key| {
                key.encrypt(
                    &OAEP_SHA256_MGF1SHA256,
                    plaintext,
                    &mut ciphertext,
                    Some(OAEP_LABEL),
                )
                .map(|written| written.len())
            })
            .ok()?;
        ciphertext.truncate(len);
        Some(ciphertext)
    }
}

impl PartialEq for OwnerPublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.pkcs1 == other.pkcs1
    }
}

impl Eq for OwnerPublicKey {}

/// Why a seed cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SplitError {
    /// There is no owner, or there are more than share documents hold.
    #[error("a seed is split among 1 to {MAX_SHARES} owners, not {got}")]
    Owners {
        /// The number of owners.
        got: usize,
    },
    /// As many shares as the threshold asks for would never exist, or none would be needed.
    #[error("the threshold must be 1 to {owners}, the number of owners, not {got}")]
    Threshold {
        /// The threshold asked for.
        got: usize,
        /// The number of owners.
        owners: usize,
    },
    /// An owner's key cannot be used.
    #[error("the key of seed-share owner {position} cannot be used: {error}")]
    Owner {
        /// Which owner, counted from 1.
        position: usize,
        /// What is wrong with the key.
        error: PublicKeyError,
    },
    /// One owner would hold two shares.
    #[error("seed-share owners {first} and {second} have the same key")]
    DuplicateOwner {
        /// The first of the two, counted from 1.
        first: usize,
        /// The second.
        second: usize,
    },
    /// The operating system gave no random bytes.
    #[error("cannot get random bytes for a set ID")]
    Random,
    /// The cryptographic library failed, most likely for want of memory.
    #[error("cannot make share {index}")]
    Encrypt {
        /// Which share.
        index: u8,
    },
}

/// Why bytes are not the public key of a seed-share owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// Another kind of key, or damaged.
    #[error("not an RSA public key")]
    NotRsa,
    /// The key is in another form, such as `SubjectPublicKeyInfo`.
    #[error("not in PKCS #1 DER form (`openssl rsa -RSAPublicKey_out -outform DER`)")]
    NotPkcs1,
    /// Too short to be safe, or too long to be real.
    #[error("an RSA key has 2048 to 8192 bits")]
    Size,
}

/// The most shares that a seed is split into.
pub const MAX_SHARES: usize = 16;

/// The label of RSA-OAEP (RFC 8017, section 7.1), as Contrast has it.
pub(crate) const OAEP_LABEL: &[u8] = b"seedshare";

#[cfg(test)]
impl OwnerPublicKey {
    /// The public half of a fresh key.
    pub(crate) fn generate() -> Self {
        use aws_lc_rs::rsa::{KeyPair, KeySize};
        use aws_lc_rs::signature::KeyPair as _;

        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        Self::from_pkcs1(key.public_key().as_ref()).unwrap()
    }
}
