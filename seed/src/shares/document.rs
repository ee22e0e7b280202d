//! The document that holds all shares, each encrypted to its owner: `seed-shares.json`.

use std::fmt;

use attestation::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::share::{SetId, Share, ShareError};
use super::split::{MAX_SHARES, OwnerPublicKey, PublicKeyError};

/// All shares of a seed, each encrypted to its owner. It is public.
///
/// A value of this type is consistent: `1 <= threshold <= shares <= 16`, no two owners are the same,
/// the shares are in order. That it is the document of a given history is for the caller to check,
/// by [`SharesDocument::hash`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharesDocument {
    set: SetId,
    threshold: u8,
    check_value: Digest,
    transition: Option<Digest>,
    shares: Vec<EncryptedShare>,
}

/// One owner's part of the document; its index is its position, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncryptedShare {
    pub(crate) owner: OwnerPublicKey,
    pub(crate) commitment: Digest,
    pub(crate) ciphertext: Vec<u8>,
}

impl SharesDocument {
    /// `shares` has 1 to 16 items, and `threshold` is in between.
    pub(crate) fn new(
        set: SetId,
        threshold: u8,
        check_value: Digest,
        shares: Vec<EncryptedShare>,
    ) -> Self {
        Self {
            set,
            threshold,
            check_value,
            transition: None,
            shares,
        }
    }

    /// Reads the document from JSON. Unknown keys are refused.
    pub fn parse(json: &[u8]) -> Result<Self, DocumentError> {
        if json.len() > MAX_DOCUMENT {
            return Err(DocumentError::TooLong { got: json.len() });
        }
        let json: DocumentJson = serde_json::from_slice(json).map_err(DocumentError::Json)?;
        let count = json.shares.len();
        if !(1..=MAX_SHARES).contains(&count) {
            return Err(DocumentError::Count { got: count });
        }
        if !(1..=count).contains(&usize::from(json.threshold)) {
            return Err(DocumentError::Threshold {
                got: json.threshold,
                shares: count,
            });
        }
        let document = Self {
            set: SetId(array(&json.set, DocumentPart::SetId)?),
            threshold: json.threshold,
            check_value: Digest(array(&json.check_value, DocumentPart::CheckValue)?),
            transition: match json.transition.as_str() {
                "" => None,
                hash => Some(Digest(array(hash, DocumentPart::TransitionHash)?)),
            },
            shares: json
                .shares
                .iter()
                .zip(1..)
                .map(|(share, index)| share.parse(index))
                .collect::<Result<_, _>>()?,
        };
        for (second, share) in (1..).zip(&document.shares) {
            let earlier = document.shares.iter().take(usize::from(second) - 1);
            if let Some((first, _)) = (1..).zip(earlier).find(|(_, one)| one.owner == share.owner) {
                return Err(DocumentError::DuplicateOwner { first, second });
            }
        }
        Ok(document)
    }

    /// The document as JSON, ending in a line feed: always the same bytes for the same document.
    pub fn to_json(&self) -> String {
        DocumentJson {
            set: self.set.to_string(),
            threshold: self.threshold,
            check_value: self.check_value.to_string(),
            transition: self
                .transition
                .map_or_else(String::new, |hash| hash.to_string()),
            shares: (1..)
                .zip(&self.shares)
                .map(|(index, share)| ShareJson {
                    public_key: hex::encode(share.owner.pkcs1()),
                    index,
                    commitment: share.commitment.to_string(),
                    ciphertext: hex::encode(&share.ciphertext),
                })
                .collect(),
        }
        .text()
    }

    /// SHA-256 of [`SharesDocument::to_json`] without the transition hash: what a transition says of
    /// the document, and hence what the document can name a transition after.
    pub fn hash(&self) -> Digest {
        let mut unnamed = self.clone();
        unnamed.transition = None;
        Digest::of(unnamed.to_json().as_bytes())
    }

    /// The transition that the shares were made for, where the document says so.
    pub fn transition(&self) -> Option<Digest> {
        self.transition
    }

    /// The same document, saying which transition its shares were made for.
    #[must_use]
    pub fn with_transition(mut self, hash: Digest) -> Self {
        self.transition = Some(hash);
        self
    }

    /// How many shares give the seed.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// The owners' public keys as PKCS #1 in DER form; the first has share 1.
    pub fn owners(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.shares.iter().map(|share| share.owner.pkcs1())
    }

    /// What the right seed gives as its [`Seed::check_value`](crate::Seed::check_value).
    pub fn check_value(&self) -> Digest {
        self.check_value
    }

    /// The share of the owner with this public key, and its index.
    pub(crate) fn share_of(&self, owner_pkcs1: &[u8]) -> Option<(u8, &EncryptedShare)> {
        (1..)
            .zip(&self.shares)
            .find(|(_, share)| share.owner.pkcs1() == owner_pkcs1)
    }

    /// Whether `share` is the one that the document says its owner was given.
    pub(crate) fn check(&self, share: &Share) -> Result<(), ShareError> {
        let index = share.index;
        if share.set != self.set {
            return Err(ShareError::Set {
                index,
                got: share.set,
                want: self.set,
            });
        }
        if share.threshold != self.threshold {
            return Err(ShareError::Threshold {
                index,
                got: share.threshold,
                want: self.threshold,
            });
        }
        let committed = share.commitment();
        let position = usize::from(index).checked_sub(1);
        match position.and_then(|position| self.shares.get(position)) {
            None => Err(ShareError::Index {
                index,
                shares: self.shares.len() as u8,
            }),
            Some(own) if own.commitment == committed => Ok(()),
            // Either the share or the entries of the document may have been relabelled.
            Some(_) => Err((1..)
                .zip(&self.shares)
                .find(|(of, other)| {
                    [committed, share.commitment_as(*of)].contains(&other.commitment)
                })
                .map_or(ShareError::Value { index }, |(of, _)| ShareError::Swapped {
                    index,
                    of,
                })),
        }
    }
}

impl ShareJson {
    fn parse(&self, index: u8) -> Result<EncryptedShare, DocumentError> {
        if self.index != index {
            return Err(DocumentError::Index {
                got: self.index,
                want: index,
            });
        }
        let public_key = bytes(&self.public_key, DocumentPart::PublicKey { index })?;
        let owner = OwnerPublicKey::from_pkcs1(&public_key)
            .map_err(|error| DocumentError::Owner { index, error })?;
        let ciphertext = bytes(&self.ciphertext, DocumentPart::EncryptedShare { index })?;
        if ciphertext.len() != owner.ciphertext_len() {
            return Err(DocumentError::Ciphertext {
                index,
                got: ciphertext.len(),
                want: owner.ciphertext_len(),
            });
        }
        Ok(EncryptedShare {
            owner,
            commitment: Digest(array(&self.commitment, DocumentPart::Commitment { index })?),
            ciphertext,
        })
    }
}

fn array<const N: usize>(text: &str, part: DocumentPart) -> Result<[u8; N], DocumentError> {
    let mut value = [0; N];
    hex::decode_to_slice(text, &mut value).map_err(|error| DocumentError::Hex { part, error })?;
    Ok(value)
}

fn bytes(text: &str, part: DocumentPart) -> Result<Vec<u8>, DocumentError> {
    hex::decode(text).map_err(|error| DocumentError::Hex { part, error })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DocumentJson {
    #[serde(rename = "SetID")]
    set: String,
    threshold: u8,
    check_value: String,
    #[serde(rename = "TransitionHash")]
    transition: String,
    #[serde(rename = "SeedShares")]
    shares: Vec<ShareJson>,
}

impl DocumentJson {
    fn text(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("strings and numbers can be written as JSON");
        text.push('\n');
        text
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ShareJson {
    public_key: String,
    index: u8,
    commitment: String,
    #[serde(rename = "EncryptedShare")]
    ciphertext: String,
}

/// Why a document cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Longer than a document with 16 shares can be.
    #[error("a seed share document has at most {MAX_DOCUMENT} bytes, not {got}")]
    TooLong {
        /// The number of bytes.
        got: usize,
    },
    /// Not JSON, or with other keys.
    #[error("not a seed share document: {0}")]
    Json(serde_json::Error),
    /// A value is not hexadecimal, or of another length.
    #[error("{part}: {error}")]
    Hex {
        /// Where.
        part: DocumentPart,
        /// What is wrong.
        error: hex::FromHexError,
    },
    /// No share, or too many.
    #[error("SeedShares: there are 1 to {MAX_SHARES} shares, not {got}")]
    Count {
        /// The number of shares.
        got: usize,
    },
    /// More shares needed than there are, or none.
    #[error("Threshold: must be 1 to {shares}, the number of shares, not {got}")]
    Threshold {
        /// The threshold.
        got: u8,
        /// The number of shares.
        shares: usize,
    },
    /// A share is missing, repeated or out of order.
    #[error("SeedShares: share {want} is missing, in its place is share {got}")]
    Index {
        /// The index found.
        got: u8,
        /// The index expected.
        want: u8,
    },
    /// An owner's key cannot be used.
    #[error("{}: {error}", DocumentPart::PublicKey { index: *index })]
    Owner {
        /// Which share.
        index: u8,
        /// What is wrong with the key.
        error: PublicKeyError,
    },
    /// One owner has two shares.
    #[error("SeedShares: shares {first} and {second} have the same PublicKey")]
    DuplicateOwner {
        /// The first of the two.
        first: u8,
        /// The second.
        second: u8,
    },
    /// The ciphertext is not as long as its owner's key makes it.
    #[error(
        "{}: the owner's key gives {want} bytes, not {got}",
        DocumentPart::EncryptedShare { index: *index }
    )]
    Ciphertext {
        /// Which share.
        index: u8,
        /// The number of bytes.
        got: usize,
        /// The number of bytes of the owner's modulus.
        want: usize,
    },
}

/// A value in the document. Shares are named by their index, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DocumentPart {
    /// `SetID`.
    SetId,
    /// `CheckValue`.
    CheckValue,
    /// `TransitionHash`.
    TransitionHash,
    /// A share's `PublicKey`.
    PublicKey {
        /// Which share.
        index: u8,
    },
    /// A share's `Commitment`.
    Commitment {
        /// Which share.
        index: u8,
    },
    /// A share's `EncryptedShare`.
    EncryptedShare {
        /// Which share.
        index: u8,
    },
}

impl fmt::Display for DocumentPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetId => f.write_str("SetID"),
            Self::CheckValue => f.write_str("CheckValue"),
            Self::TransitionHash => f.write_str("TransitionHash"),
            Self::PublicKey { index } => write!(f, "share {index}: PublicKey"),
            Self::Commitment { index } => write!(f, "share {index}: Commitment"),
            Self::EncryptedShare { index } => write!(f, "share {index}: EncryptedShare"),
        }
    }
}

/// The most bytes that a document has: 16 shares for RSA keys of 8192 bits need 70 KiB.
pub const MAX_DOCUMENT: usize = 128 * 1024;
