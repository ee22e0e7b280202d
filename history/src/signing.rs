//! The Coordinators' signature on each transition.

use std::fmt;

use attestation::Digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1, EcdsaKeyPair, KeyPair, ParsedPublicKey, UnparsedPublicKey,
};
use thiserror::Error;

use crate::curve::Curve;
use crate::encoding::{Reader, put_bytes};
use crate::transition::{MAX_SIGNATURE, Transition, TransitionError, TransitionPart};

/// A transition and the signature on it, which is yet to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedTransition {
    /// The transition.
    pub transition: Transition,
    /// ECDSA on P-384 with SHA-384, in ASN.1 form, over a domain string and the transition's hash.
    pub signature: Vec<u8>,
}

impl SignedTransition {
    /// The transition and the signature, each behind its length.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, &self.transition.encode());
        put_bytes(&mut bytes, &self.signature);
        bytes
    }

    /// Reads what [`SignedTransition::encode`] gives, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, TransitionError> {
        let mut reader = Reader::new(bytes);
        let transition = reader.bytes(TransitionPart::Transition, MAX_TRANSITION)?;
        let signature = reader.bytes(TransitionPart::TransitionSignature, MAX_SIGNATURE)?;
        reader.end()?;
        Ok(Self {
            transition: Transition::decode(transition)?,
            signature: signature.to_vec(),
        })
    }
}

/// The private key that signs transitions, derived from the seed; P-384.
pub struct TransitionSigner {
    pair: EcdsaKeyPair,
    public_key: TransitionKey,
}

impl TransitionSigner {
    /// Reads an unencrypted PKCS #8 key in DER form.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SigningKeyError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(Curve::P384.signing(), der).map_err(|_| SigningKeyError)?;
        let spki = Curve::P384.spki(pair.public_key().as_ref());
        Ok(Self {
            public_key: TransitionKey::from_spki(&spki).map_err(|_| SigningKeyError)?,
            pair,
        })
    }

    /// Signs the transition. One that could not be read again is refused.
    pub fn sign(&self, transition: Transition) -> Result<SignedTransition, SignError> {
        transition.check_limits().map_err(SignError::Transition)?;
        let signature = self
            .pair
            .sign(&SystemRandom::new(), &message(transition.hash()))
            .map_err(|_| SignError::Sign)?
            .as_ref()
            .to_vec();
        Ok(SignedTransition {
            transition,
            signature,
        })
    }

    /// What verifies the signatures.
    pub fn public_key(&self) -> &TransitionKey {
        &self.public_key
    }
}

impl fmt::Debug for TransitionSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransitionSigner(..)")
    }
}

/// The public key that verifies a history.
#[derive(Clone)]
pub struct TransitionKey {
    spki: Vec<u8>,
    key: ParsedPublicKey,
}

impl TransitionKey {
    /// Reads a P-384 key in `SubjectPublicKeyInfo` form (RFC 5480), DER, with uncompressed point.
    pub fn from_spki(der: &[u8]) -> Result<Self, TransitionKeyError> {
        if Curve::of_spki(der) != Some(Curve::P384) {
            return Err(TransitionKeyError);
        }
        Ok(Self {
            spki: der.to_vec(),
            key: UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, der)
                .parse()
                .map_err(|_| TransitionKeyError)?,
        })
    }

    /// The key in `SubjectPublicKeyInfo` form.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// Whether the signature is this key's on this transition. It says nothing on the transition's
    /// place in a history: that is [`Chain::verify`](crate::Chain::verify).
    pub fn verify(&self, signed: &SignedTransition) -> Result<(), WrongSignature> {
        self.key
            .verify_sig(&message(signed.transition.hash()), &signed.signature)
            .map_err(|_| WrongSignature {
                seq: signed.transition.seq,
            })
    }
}

impl fmt::Debug for TransitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransitionKey({})", hex::encode(&self.spki))
    }
}

impl PartialEq for TransitionKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for TransitionKey {}

fn message(hash: Digest) -> Vec<u8> {
    [DOMAIN, &hash.0].concat()
}

/// Bytes are not a P-384 private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a P-384 private key in PKCS #8 DER form")]
pub struct SigningKeyError;

/// Bytes are not a P-384 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a P-384 public key in SubjectPublicKeyInfo DER form, with uncompressed point")]
pub struct TransitionKeyError;

/// Why a transition is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignError {
    /// It could not be read again.
    #[error(transparent)]
    Transition(TransitionError),
    /// The cryptographic library failed, most likely for want of memory.
    #[error("cannot sign the transition")]
    Sign,
}

/// The signature is not the key's on this transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the signature of transition {seq} is wrong: it has been changed, or signed with another key"
)]
pub struct WrongSignature {
    /// The place that the transition says it has.
    pub seq: u64,
}

/// Above what the limits of a transition's parts add up to.
const MAX_TRANSITION: usize = 64 * 1024;

const DOMAIN: &[u8] = b"sealwire transition signature v1";
