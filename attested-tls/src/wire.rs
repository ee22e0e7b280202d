//! The messages of the exchange, as protobuf; each goes behind its length as four bytes, big endian.
//!
//! Both sides send a [`Challenge`], then a [`Proof`], then a [`Verdict`]. Whatever bytes come, the
//! `decode` functions end with a value or an error and allocate no more than a few times their
//! input.

use attestation::{Digest, Evidence};
use prost::Message as _;
use thiserror::Error;

use crate::error::CorrelationId;

/// The most keys that a challenge can name.
pub const MAX_CERTIFIED_KEYS: usize = 1024;

/// What the sender says of itself, and what it wants from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// What the peer's evidence must be bound to; random.
    pub nonce: [u8; 32],
    /// Whether the peer is to send evidence.
    pub wants_evidence: bool,
    /// The manifest that the sender acts under. Its evidence vouches for it.
    pub manifest: Option<Digest>,
    /// SHA-256 of each `SubjectPublicKeyInfo` that the sender wants to have certified. Its evidence
    /// vouches for them.
    pub certified_keys: Vec<Digest>,
}

impl Challenge {
    /// The longest encoding, in bytes.
    pub const MAX_BYTES: usize = MAX_CERTIFIED_KEYS * 32 + 128;

    /// The bytes for the wire.
    pub fn encode(&self) -> Vec<u8> {
        ChallengeMessage {
            version: VERSION,
            nonce: self.nonce.to_vec(),
            wants_evidence: self.wants_evidence,
            manifest: self.manifest.map(|digest| digest.0.to_vec()),
            certified_keys: self.certified_keys.iter().flat_map(|key| key.0).collect(),
        }
        .encode_to_vec()
    }

    /// Reads what [`Challenge::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let ChallengeMessage {
            version,
            nonce,
            wants_evidence,
            manifest,
            certified_keys,
        } = decode(bytes, Self::MAX_BYTES)?;
        if version != VERSION {
            return Err(DecodeError::Version { got: version });
        }
        let (certified_keys, []) = certified_keys.as_chunks() else {
            return Err(DecodeError::Field("certified_keys"));
        };
        if certified_keys.len() > MAX_CERTIFIED_KEYS {
            return Err(DecodeError::Field("certified_keys"));
        }
        Ok(Self {
            nonce: fixed(&nonce, "nonce")?,
            wants_evidence,
            manifest: manifest
                .map(|bytes| fixed(&bytes, "manifest").map(Digest))
                .transpose()?,
            certified_keys: certified_keys.iter().copied().map(Digest).collect(),
        })
    }
}

/// The answer to a [`Challenge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// An encoding of [`Evidence`]; nothing where none was asked for, or where there is no TEE.
    pub evidence: Option<Vec<u8>>,
}

impl Proof {
    /// The longest encoding, in bytes.
    pub const MAX_BYTES: usize = Evidence::MAX_BYTES + 16;

    /// The bytes for the wire.
    pub fn encode(self) -> Vec<u8> {
        let Self { evidence } = self;
        ProofMessage { evidence }.encode_to_vec()
    }

    /// Reads what [`Proof::encode`] wrote. The evidence in it is not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let ProofMessage { evidence } = decode(bytes, Self::MAX_BYTES)?;
        Ok(Self { evidence })
    }
}

/// What the sender makes of the peer's [`Proof`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The sender is content: what follows is application data.
    Accepted,
    /// The sender will close the connection.
    Refused {
        /// What kind of refusal it is: lower-case letters and hyphens, 64 at most.
        code: String,
        /// Where the sender has its reason.
        id: CorrelationId,
    },
}

impl Verdict {
    /// The longest encoding, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// The code of a refusal of evidence, whatever the reason.
    pub const ATTESTATION_REFUSED: &str = "attestation-refused";

    /// The bytes for the wire.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Accepted => VerdictMessage {
                outcome: ACCEPTED,
                code: String::new(),
                id: Vec::new(),
            },
            Self::Refused { code, id } => VerdictMessage {
                outcome: REFUSED,
                code: code.clone(),
                id: id.0.to_vec(),
            },
        }
        .encode_to_vec()
    }

    /// Reads what [`Verdict::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let VerdictMessage { outcome, code, id } = decode(bytes, Self::MAX_BYTES)?;
        match outcome {
            ACCEPTED if code.is_empty() && id.is_empty() => Ok(Self::Accepted),
            REFUSED if is_code(&code) => Ok(Self::Refused {
                code,
                id: CorrelationId(fixed(&id, "id")?),
            }),
            REFUSED => Err(DecodeError::Field("code")),
            _ => Err(DecodeError::Field("outcome")),
        }
    }
}

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It is longer than its kind can be.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// The greatest length, in bytes.
        limit: usize,
    },
    /// It is not protobuf.
    #[error("{0}")]
    Protobuf(#[from] prost::DecodeError),
    /// It is of a version that is not known.
    #[error("version {got}, only {VERSION} is known")]
    Version {
        /// The version that it claims.
        got: u32,
    },
    /// A field has a length or value that it can't have.
    #[error("bad value of field {0}")]
    Field(&'static str),
}

fn decode<M: prost::Message + Default>(bytes: &[u8], limit: usize) -> Result<M, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLong { limit });
    }
    Ok(M::decode(bytes)?)
}

fn fixed<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Field(field))
}

/// It ends up in logs.
fn is_code(code: &str) -> bool {
    (1..=64).contains(&code.len()) && code.bytes().all(|it| it.is_ascii_lowercase() || it == b'-')
}

const VERSION: u32 = 1;
const ACCEPTED: u32 = 1;
const REFUSED: u32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct ChallengeMessage {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    nonce: Vec<u8>,
    #[prost(bool, tag = "3")]
    wants_evidence: bool,
    #[prost(bytes = "vec", optional, tag = "4")]
    manifest: Option<Vec<u8>>,
    /// Digests of 32 bytes one after the other: a repeated field would take ten times its bytes on
    /// the wire once decoded.
    #[prost(bytes = "vec", tag = "5")]
    certified_keys: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProofMessage {
    #[prost(bytes = "vec", optional, tag = "1")]
    evidence: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VerdictMessage {
    #[prost(uint32, tag = "1")]
    outcome: u32,
    #[prost(string, tag = "2")]
    code: String,
    #[prost(bytes = "vec", tag = "3")]
    id: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(keys: usize) -> Challenge {
        Challenge {
            nonce: [1; 32],
            wants_evidence: true,
            manifest: Some(Digest([2; 32])),
            certified_keys: vec![Digest([3; 32]); keys],
        }
    }

    fn refused(code: &str) -> Verdict {
        Verdict::Refused {
            code: code.to_owned(),
            id: CorrelationId([4; 8]),
        }
    }

    #[test]
    fn messages_survive_the_wire() {
        for message in [challenge(0), challenge(MAX_CERTIFIED_KEYS)] {
            assert_eq!(Challenge::decode(&message.encode()), Ok(message));
        }
        for evidence in [None, Some(vec![5; Evidence::MAX_BYTES])] {
            let message = Proof { evidence };
            assert_eq!(Proof::decode(&message.clone().encode()), Ok(message));
        }
        for message in [Verdict::Accepted, refused(&"x".repeat(64))] {
            assert_eq!(Verdict::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn too_many_keys_and_a_broken_one_are_refused() {
        let bad = Err(DecodeError::Field("certified_keys"));
        let excess = challenge(MAX_CERTIFIED_KEYS + 1).encode();
        assert_eq!(Challenge::decode(&excess), bad);
        let mut message = ChallengeMessage::decode(&*challenge(1).encode()).unwrap();
        message.certified_keys.pop();
        assert_eq!(Challenge::decode(&message.encode_to_vec()), bad);
    }

    #[test]
    fn a_nonce_or_manifest_of_another_length_is_refused() {
        let whole = ChallengeMessage::decode(&*challenge(1).encode()).unwrap();
        let mut message = whole.clone();
        message.nonce.push(0);
        let error = Challenge::decode(&message.encode_to_vec());
        assert_eq!(error, Err(DecodeError::Field("nonce")));
        message = whole;
        message.manifest = Some(vec![]);
        let error = Challenge::decode(&message.encode_to_vec());
        assert_eq!(error, Err(DecodeError::Field("manifest")));
    }

    #[test]
    fn an_empty_message_accepts_and_challenges_nothing() {
        assert_eq!(Verdict::decode(&[]), Err(DecodeError::Field("outcome")));
        assert_eq!(Challenge::decode(&[]), Err(DecodeError::Version { got: 0 }));
    }

    #[test]
    fn a_code_that_could_forge_log_lines_is_refused() {
        for code in ["", "a b", "a\nb", "Refused", "é", &"x".repeat(65)] {
            let error = Verdict::decode(&refused(code).encode());
            assert_eq!(error, Err(DecodeError::Field("code")), "{code:?}");
        }
    }

    #[test]
    fn no_part_of_a_message_passes_for_the_whole_and_none_is_overlong() {
        let (message, bytes) = (challenge(2), challenge(2).encode());
        for length in 0..bytes.len() {
            assert_ne!(Challenge::decode(&bytes[..length]).as_ref(), Ok(&message));
        }
        let limit = Verdict::MAX_BYTES;
        let error = Verdict::decode(&vec![0; limit + 1]);
        assert_eq!(error, Err(DecodeError::TooLong { limit }));
    }
}
