use std::fmt;

use attestation::Digest;
use thiserror::Error;

use crate::authorisation::Authorisation;
use crate::encoding::{Reader, put_bytes};
use crate::head::Head;

/// One step of the history: what is active from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Its place in the history, counted from 1.
    pub seq: u64,
    /// The hash of the transition before; zeros for the first.
    pub previous: Digest,
    /// Why there is a transition.
    pub kind: Kind,
    /// SHA-256 of the manifest that is active from here on.
    pub manifest: Digest,
    /// SHA-256 of what is public of the PKI generation that is active from here on.
    pub pki: Digest,
    /// The hash of the document with the seed shares.
    pub seed_shares: Digest,
    /// When it was made by its Coordinator's clock, in seconds since 1970 (UTC). It orders nothing.
    pub time: u64,
    /// The owners' signatures that allowed it; none but for a manifest that follows another.
    pub authorisations: Vec<Authorisation>,
}

/// Why there is a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A manifest was set.
    Manifest,
    /// Owners gave the seed back to a Coordinator: the same manifest, with a new PKI generation.
    Recovery,
    /// Every agent trusts the newest PKI generation, or was given time to: it issues from here on.
    Issue,
    /// Every agent has a certificate of the newest PKI generation, or was given time to: the older
    /// ones are trusted no more.
    Withdraw,
}

impl Transition {
    /// The only encoding of the transition: what is hashed, signed and stored.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            seq,
            previous,
            kind,
            manifest,
            pki,
            seed_shares,
            time,
            authorisations,
        } = self;
        let mut bytes = Vec::with_capacity(256 + authorisations.len() * 256);
        bytes.extend_from_slice(VERSION);
        bytes.extend_from_slice(&seq.to_be_bytes());
        bytes.extend_from_slice(&previous.0);
        bytes.push(kind.code());
        bytes.extend_from_slice(&manifest.0);
        bytes.extend_from_slice(&pki.0);
        bytes.extend_from_slice(&seed_shares.0);
        bytes.extend_from_slice(&time.to_be_bytes());
        bytes.extend_from_slice(&(authorisations.len() as u64).to_be_bytes());
        for Authorisation { key, signature } in authorisations {
            put_bytes(&mut bytes, key);
            put_bytes(&mut bytes, signature);
        }
        bytes
    }

    /// Reads what [`Transition::encode`] gives, and nothing else: what is read encodes to the same
    /// bytes again.
    pub fn decode(bytes: &[u8]) -> Result<Self, TransitionError> {
        let mut reader = Reader::new(bytes);
        if reader.array(TransitionPart::Version)? != *VERSION {
            return Err(TransitionError::Version);
        }
        let transition = Self {
            seq: reader.number(TransitionPart::Seq)?,
            previous: Digest(reader.array(TransitionPart::Previous)?),
            kind: Kind::from_code(reader.array(TransitionPart::Kind)?)?,
            manifest: Digest(reader.array(TransitionPart::Manifest)?),
            pki: Digest(reader.array(TransitionPart::Pki)?),
            seed_shares: Digest(reader.array(TransitionPart::SeedShares)?),
            time: reader.number(TransitionPart::Time)?,
            authorisations: authorisations(&mut reader)?,
        };
        reader.end()?;
        Ok(transition)
    }

    /// SHA-256 of the encoding.
    pub fn hash(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// What is to be remembered of a history that ends here.
    pub fn head(&self) -> Head {
        Head {
            seq: self.seq,
            hash: self.hash(),
        }
    }

    /// Whether [`Transition::decode`] would read the encoding.
    pub(crate) fn check_limits(&self) -> Result<(), TransitionError> {
        check_count(self.authorisations.len() as u64)?;
        for (authorisation, position) in self.authorisations.iter().zip(1..) {
            let Authorisation { key, signature } = authorisation;
            for (bytes, part, max) in [
                (key, TransitionPart::Key { position }, MAX_KEY),
                (
                    signature,
                    TransitionPart::Signature { position },
                    MAX_SIGNATURE,
                ),
            ] {
                if bytes.len() > max {
                    let got = bytes.len() as u64;
                    return Err(TransitionError::TooLong { part, got, max });
                }
            }
        }
        Ok(())
    }
}

fn authorisations(reader: &mut Reader<'_>) -> Result<Vec<Authorisation>, TransitionError> {
    let count = reader.number(TransitionPart::Authorisations)?;
    check_count(count)?;
    (1..=count)
        .map(|position| {
            let position = position as usize;
            Ok(Authorisation {
                key: reader
                    .bytes(TransitionPart::Key { position }, MAX_KEY)?
                    .to_vec(),
                signature: reader
                    .bytes(TransitionPart::Signature { position }, MAX_SIGNATURE)?
                    .to_vec(),
            })
        })
        .collect()
}

fn check_count(got: u64) -> Result<(), TransitionError> {
    if got > MAX_AUTHORISATIONS as u64 {
        return Err(TransitionError::TooManyAuthorisations { got });
    }
    Ok(())
}

impl Kind {
    /// The name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Recovery => "recovery",
            Self::Issue => "issue",
            Self::Withdraw => "withdraw",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Manifest => 1,
            Self::Recovery => 2,
            Self::Issue => 3,
            Self::Withdraw => 4,
        }
    }

    fn from_code([code]: [u8; 1]) -> Result<Self, TransitionError> {
        match code {
            1 => Ok(Self::Manifest),
            2 => Ok(Self::Recovery),
            3 => Ok(Self::Issue),
            4 => Ok(Self::Withdraw),
            got => Err(TransitionError::Kind { got }),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why bytes are not a transition, or a transition has no encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TransitionError {
    /// It does not begin as a transition of this version does.
    #[error("not a transition of version 1")]
    Version,
    /// The bytes end early.
    #[error("the transition is cut off in its {part}")]
    Truncated {
        /// Where.
        part: TransitionPart,
    },
    /// A kind of which this version knows nothing.
    #[error("unknown kind of transition: {got}")]
    Kind {
        /// The kind's code.
        got: u8,
    },
    /// More signatures than anyone needs.
    #[error("a transition has at most {MAX_AUTHORISATIONS} authorisations, not {got}")]
    TooManyAuthorisations {
        /// The number of authorisations.
        got: u64,
    },
    /// A byte string is longer than what belongs there can be.
    #[error("the {part} has at most {max} bytes, not {got}")]
    TooLong {
        /// Where.
        part: TransitionPart,
        /// The number of bytes.
        got: u64,
        /// The most there can be.
        max: usize,
    },
    /// Something follows the transition.
    #[error("{extra} bytes follow the transition")]
    TrailingBytes {
        /// The number of bytes.
        extra: usize,
    },
}

/// A part of an encoded transition, in the order of the encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransitionPart {
    /// The whole transition, within a signed one.
    Transition,
    /// What every transition begins with.
    Version,
    /// [`Transition::seq`].
    Seq,
    /// [`Transition::previous`].
    Previous,
    /// [`Transition::kind`].
    Kind,
    /// [`Transition::manifest`].
    Manifest,
    /// [`Transition::pki`].
    Pki,
    /// [`Transition::seed_shares`].
    SeedShares,
    /// [`Transition::time`].
    Time,
    /// The number of [`Transition::authorisations`].
    Authorisations,
    /// An owner's key.
    Key {
        /// Of which authorisation, counted from 1.
        position: usize,
    },
    /// An owner's signature.
    Signature {
        /// Of which authorisation, counted from 1.
        position: usize,
    },
    /// The signature of the transition itself.
    TransitionSignature,
}

impl fmt::Display for TransitionPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transition => "transition",
            Self::Version => "version",
            Self::Seq => "sequence number",
            Self::Previous => "previous hash",
            Self::Kind => "kind",
            Self::Manifest => "manifest hash",
            Self::Pki => "PKI hash",
            Self::SeedShares => "seed share hash",
            Self::Time => "time",
            Self::Authorisations => "number of authorisations",
            Self::Key { position } => return write!(f, "key of authorisation {position}"),
            Self::Signature { position } => {
                return write!(f, "signature of authorisation {position}");
            }
            Self::TransitionSignature => "transition signature",
        })
    }
}

/// The most authorisations that a transition holds.
pub const MAX_AUTHORISATIONS: usize = 64;

/// The most bytes of an owner's key: a P-384 `SubjectPublicKeyInfo` has 120.
pub const MAX_KEY: usize = 256;

/// The most bytes of a signature: one of P-384 has 104.
pub const MAX_SIGNATURE: usize = 256;

/// Names the format, and keeps what is hashed here apart from anything else that is.
const VERSION: &[u8; 22] = b"sealwire transition v1";

#[cfg(test)]
mod tests {
    use super::*;

    fn transition() -> Transition {
        Transition {
            seq: 7,
            previous: Digest([1; 32]),
            kind: Kind::Manifest,
            manifest: Digest([2; 32]),
            pki: Digest([3; 32]),
            seed_shares: Digest([4; 32]),
            time: 1_800_000_000,
            authorisations: vec![
                Authorisation {
                    key: vec![5; 120],
                    signature: vec![6; 104],
                },
                Authorisation {
                    key: Vec::new(),
                    signature: vec![7; MAX_SIGNATURE],
                },
            ],
        }
    }

    #[test]
    fn the_encoding_is_the_known_one() {
        // Written out by hand: a stored history must be read by every later version.
        let short = Transition {
            authorisations: vec![Authorisation {
                key: vec![0xaa, 0xbb],
                signature: vec![0xcc],
            }],
            ..transition()
        };
        let text = [
            &hex::encode(b"sealwire transition v1"),
            "0000000000000007",
            &"01".repeat(32),
            "01",
            &"02".repeat(32),
            &"03".repeat(32),
            &"04".repeat(32),
            "000000006b49d200",
            "0000000000000001",
            "0000000000000002aabb",
            "0000000000000001cc",
        ]
        .concat();
        assert_eq!(hex::encode(short.encode()), text);
    }

    #[test]
    fn a_transition_survives_encoding() {
        for kind in [Kind::Manifest, Kind::Recovery, Kind::Issue, Kind::Withdraw] {
            let one = Transition {
                kind,
                ..transition()
            };
            assert_eq!(Transition::decode(&one.encode()).unwrap(), one);
        }
    }

    #[test]
    fn no_truncation_is_read() {
        let bytes = transition().encode();
        for len in 0..bytes.len() {
            assert!(
                matches!(
                    Transition::decode(&bytes[..len]),
                    Err(TransitionError::Truncated { .. })
                ),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_refused_or_read_as_what_it_says() {
        let bytes = transition().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Transition::decode(&flipped) {
                assert_ne!(read, transition(), "bit {bit}");
                assert_ne!(read.hash(), transition().hash(), "bit {bit}");
                assert_eq!(read.encode(), flipped, "bit {bit}");
            }
        }
    }

    #[test]
    fn what_follows_is_refused() {
        let mut bytes = transition().encode();
        bytes.extend([0, 0]);
        assert_eq!(
            Transition::decode(&bytes),
            Err(TransitionError::TrailingBytes { extra: 2 })
        );
    }

    #[test]
    fn unknown_versions_and_kinds_are_refused() {
        let mut bytes = transition().encode();
        bytes[21] = b'2';
        assert_eq!(Transition::decode(&bytes), Err(TransitionError::Version));
        for got in [0, 5, 255] {
            let mut bytes = transition().encode();
            bytes[22 + 8 + 32] = got;
            assert_eq!(
                Transition::decode(&bytes),
                Err(TransitionError::Kind { got })
            );
        }
    }

    #[test]
    fn lengths_are_bounded_before_they_are_believed() {
        const COUNT: usize = 22 + 8 + 32 + 1 + 3 * 32 + 8;
        let mut bytes = transition().encode();
        bytes[COUNT..COUNT + 8].copy_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(
            Transition::decode(&bytes),
            Err(TransitionError::TooManyAuthorisations { got: u64::MAX })
        );
        let mut bytes = transition().encode();
        bytes[COUNT + 8..COUNT + 16].copy_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(
            Transition::decode(&bytes),
            Err(TransitionError::TooLong {
                part: TransitionPart::Key { position: 1 },
                got: u64::MAX,
                max: MAX_KEY
            })
        );
    }

    #[test]
    fn limits_are_those_of_reading() {
        let authorisation = |key, signature| Authorisation {
            key: vec![1; key],
            signature: vec![2; signature],
        };
        for authorisations in [
            vec![authorisation(MAX_KEY, MAX_SIGNATURE); MAX_AUTHORISATIONS],
            vec![authorisation(MAX_KEY, MAX_SIGNATURE); MAX_AUTHORISATIONS + 1],
            vec![authorisation(0, 0), authorisation(MAX_KEY + 1, 0)],
            vec![authorisation(0, 0), authorisation(0, MAX_SIGNATURE + 1)],
        ] {
            let one = Transition {
                authorisations,
                ..transition()
            };
            assert_eq!(
                Transition::decode(&one.encode()).map(drop),
                one.check_limits()
            );
        }
    }
}
