//! One share, and what is wrong with one that does not fit.

use std::fmt;

use attestation::Digest;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::seed::Seed;

/// Which split of a seed a share is of: random, new with each split.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub [u8; 16]);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One owner's share of a seed, wiped from memory when dropped.
pub struct Share {
    pub(crate) set: SetId,
    pub(crate) index: u8,
    pub(crate) threshold: u8,
    pub(crate) value: Box<Zeroizing<[u8; Seed::LEN]>>,
}

impl Share {
    /// The split that the share is of.
    pub fn set(&self) -> SetId {
        self.set
    }

    /// Which share it is, counted from 1.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// How many shares give the seed.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// The share as bytes, for its owner to hand to the Coordinator that is to be recovered.
    ///
    /// They are the share itself: whoever sends them must have verified who receives them.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(ENCODED_SHARE));
        bytes.extend_from_slice(VERSION);
        bytes.extend_from_slice(&self.set.0);
        bytes.push(self.index);
        bytes.push(self.threshold);
        bytes.extend_from_slice(self.value.as_slice());
        bytes
    }

    /// Reads what [`Share::encode`] gave. Whether it is a share of a given seed is for
    /// [`Gathering::add`](crate::Gathering::add) to say.
    pub fn decode(bytes: &[u8]) -> Result<Self, ShareDecodeError> {
        let length = ShareDecodeError::Length { got: bytes.len() };
        if bytes.len() != ENCODED_SHARE {
            return Err(length);
        }
        let bytes = bytes
            .strip_prefix(VERSION)
            .ok_or(ShareDecodeError::Version)?;
        let Some((set, rest)) = bytes.split_first_chunk() else {
            return Err(length);
        };
        let Some((&[index, threshold], value)) = rest.split_first_chunk() else {
            return Err(length);
        };
        let mut share = Self {
            set: SetId(*set),
            index,
            threshold,
            value: Box::new(Zeroizing::new([0; Seed::LEN])),
        };
        if value.len() != share.value.len() {
            return Err(length);
        }
        share.value.copy_from_slice(value);
        Ok(share)
    }

    /// The public value that the document holds of each share: SHA-256 over a domain string, set,
    /// index, threshold and value, of which all but the first have fixed lengths.
    ///
    /// The value is 64 uniformly random bytes, so the commitment does not reveal it.
    pub(crate) fn commitment(&self) -> Digest {
        self.commitment_as(self.index)
    }

    /// The commitment that the same value would have with another index.
    pub(crate) fn commitment_as(&self, index: u8) -> Digest {
        let mut message = Zeroizing::new(Vec::with_capacity(128));
        message.extend_from_slice(COMMITMENT);
        message.extend_from_slice(&self.set.0);
        message.extend_from_slice(&[index, self.threshold]);
        message.extend_from_slice(self.value.as_slice());
        Digest::of(&message)
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            set,
            index,
            threshold,
            value: _,
        } = self;
        write!(f, "Share {{ {index} of set {set}, threshold {threshold} }}")
    }
}

/// Why bytes are not a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShareDecodeError {
    /// Bytes are missing or too many.
    #[error("a share has {ENCODED_SHARE} bytes, not {got}")]
    Length {
        /// The number of bytes.
        got: usize,
    },
    /// It does not begin as a share of this version does.
    #[error("not a seed share of version 1")]
    Version,
}

/// Why a share is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It is of an earlier (or later) split of the seed, or of another deployment's.
    #[error("share {index} is stale or of another seed: its set is {got}, not {want}")]
    Set {
        /// Which share.
        index: u8,
        /// The set it is of.
        got: SetId,
        /// The set that is gathered.
        want: SetId,
    },
    /// It says that another number of shares gives the seed.
    #[error("share {index} is damaged: its threshold is {got}, not {want}")]
    Threshold {
        /// Which share.
        index: u8,
        /// The threshold it gives.
        got: u8,
        /// The threshold of the set.
        want: u8,
    },
    /// There is no such share.
    #[error("share {index} is damaged: the shares are 1 to {shares}")]
    Index {
        /// The index it gives.
        index: u8,
        /// The number of shares.
        shares: u8,
    },
    /// It is an intact share under the index of another.
    #[error("share {index} is swapped: its value is that of share {of}")]
    Swapped {
        /// The index it gives.
        index: u8,
        /// The share that it is.
        of: u8,
    },
    /// Its value is not the one that was given to its owner.
    #[error("share {index} is wrong: its value does not match its commitment")]
    Value {
        /// Which share.
        index: u8,
    },
    /// The same share has been given before.
    #[error("share {index} is duplicated: it has been given already, another owner's is needed")]
    Duplicate {
        /// Which share.
        index: u8,
    },
}

/// The length of an encoded share in bytes.
pub const ENCODED_SHARE: usize = VERSION.len() + 16 + 2 + Seed::LEN;

const VERSION: &[u8] = b"sealwire seed share v1";
const COMMITMENT: &[u8] = b"sealwire seed share commitment v1";

#[cfg(test)]
mod tests {
    use super::*;

    fn share() -> Share {
        Share {
            set: SetId([1; 16]),
            index: 2,
            threshold: 3,
            value: Box::new(Zeroizing::new([4; 64])),
        }
    }

    #[test]
    fn a_share_survives_encoding() {
        let bytes = share().encode();
        assert_eq!(bytes.len(), ENCODED_SHARE);
        let read = Share::decode(&bytes).unwrap();
        assert_eq!(read.encode(), bytes);
        assert_eq!(read.commitment(), share().commitment());
    }

    #[test]
    fn any_other_length_is_refused() {
        let mut bytes = share().encode();
        for len in 0..bytes.len() {
            assert_eq!(
                Share::decode(&bytes[..len]).unwrap_err(),
                ShareDecodeError::Length { got: len }
            );
        }
        bytes.push(0);
        assert_eq!(
            Share::decode(&bytes).unwrap_err(),
            ShareDecodeError::Length {
                got: ENCODED_SHARE + 1
            }
        );
    }

    #[test]
    fn another_version_is_refused() {
        for bit in 0..VERSION.len() * 8 {
            let mut bytes = share().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                Share::decode(&bytes).unwrap_err(),
                ShareDecodeError::Version
            );
        }
    }

    #[test]
    fn debug_output_has_no_secret() {
        assert_eq!(
            format!("{:?}", share()),
            "Share { 2 of set 01010101010101010101010101010101, threshold 3 }"
        );
    }

    #[test]
    fn the_commitment_covers_every_field() {
        let variants = [
            share(),
            Share {
                set: SetId([2; 16]),
                ..share()
            },
            Share {
                index: 3,
                ..share()
            },
            Share {
                threshold: 2,
                ..share()
            },
            Share {
                value: Box::new(Zeroizing::new([5; 64])),
                ..share()
            },
        ];
        for (i, a) in variants.iter().enumerate() {
            for b in &variants[..i] {
                assert_ne!(a.commitment(), b.commitment());
            }
        }
    }
}
