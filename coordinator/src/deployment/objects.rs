//! What the store keeps beside manifests, seed shares and policies. Nothing in it is secret.

use attestation::Digest;
use history::SignedTransition;
use prost::Message;
use thiserror::Error;

use crate::pki::{CaCertificate, PkiError};

/// A transition as it is stored: with the way back to the one before.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The transition.
    pub transition: SignedTransition,
    /// The object that holds the entry before; `None` for the first.
    pub previous: Option<Digest>,
    /// The objects that this entry is the first to need.
    pub objects: Vec<Digest>,
}

impl Entry {
    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        EntryMessage {
            transition: self.transition.encode(),
            previous: self.previous.map(|it| it.0.to_vec()),
            objects: self.objects.iter().map(|it| it.0.to_vec()).collect(),
        }
        .encode_to_vec()
    }

    /// Reads what [`Entry::encode`] wrote. Verifies no signature.
    pub fn decode(bytes: &[u8]) -> Result<Self, ObjectError> {
        let message = EntryMessage::decode(bytes).map_err(|_| ObjectError::Encoding)?;
        Ok(Self {
            transition: SignedTransition::decode(&message.transition)
                .map_err(|_| ObjectError::Encoding)?,
            previous: message.previous.as_deref().map(digest).transpose()?,
            objects: message
                .objects
                .iter()
                .map(|it| digest(it))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// The certificates of one generation.
#[derive(Clone, Debug)]
pub struct PkiRecord {
    /// What data owners trust: the same in every generation.
    pub root: CaCertificate,
    /// What mesh peers trust.
    pub mesh_ca: CaCertificate,
    /// What leads from one to the other.
    pub intermediate: CaCertificate,
}

impl PkiRecord {
    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        PkiMessage {
            root: self.root.pem(),
            mesh_ca: self.mesh_ca.pem(),
            intermediate: self.intermediate.pem(),
        }
        .encode_to_vec()
    }

    /// Reads what [`PkiRecord::encode`] wrote. Refuses certificates that do not belong together.
    pub fn decode(bytes: &[u8]) -> Result<Self, ObjectError> {
        let message = PkiMessage::decode(bytes).map_err(|_| ObjectError::Encoding)?;
        let record = Self {
            root: CaCertificate::from_pem(&message.root)?,
            mesh_ca: CaCertificate::from_pem(&message.mesh_ca)?,
            intermediate: CaCertificate::from_pem(&message.intermediate)?,
        };
        record.mesh_ca.check_twin(&record.intermediate)?;
        record.intermediate.check_signed_by(&record.root)?;
        Ok(record)
    }
}

/// Why an object can't be read.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// The bytes are not of the kind that was expected.
    #[error("not an object of the expected kind")]
    Encoding,
    /// A certificate is not one that this PKI made.
    #[error(transparent)]
    Certificate(#[from] PkiError),
}

fn digest(bytes: &[u8]) -> Result<Digest, ObjectError> {
    bytes
        .try_into()
        .map(Digest)
        .map_err(|_| ObjectError::Encoding)
}

#[derive(Clone, PartialEq, prost::Message)]
struct EntryMessage {
    #[prost(bytes = "vec", tag = "1")]
    transition: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    previous: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    objects: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PkiMessage {
    #[prost(string, tag = "1")]
    root: String,
    #[prost(string, tag = "2")]
    mesh_ca: String,
    #[prost(string, tag = "3")]
    intermediate: String,
}
