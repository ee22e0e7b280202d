use std::fmt;
use std::io;
use std::time::Duration;

use attestation::Refusals;
use attester::AttesterError;
use aws_lc_rs::rand;
use thiserror::Error;

use crate::wire::{DecodeError, MAX_CERTIFIED_KEYS};

/// Why there is no attested connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttestedTlsError {
    /// The connection broke or was closed.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
    /// The TLS handshake failed, or the peer sent an alert.
    #[error("TLS: {0}")]
    Tls(#[source] rustls::Error),
    /// The peer took too long.
    #[error("not done after {after:?}")]
    Deadline {
        /// How long handshake and exchange may take.
        after: Duration,
    },
    /// The peer does not keep to the protocol.
    #[error("the peer does not speak attested TLS as it should: {0}")]
    Protocol(#[from] ProtocolViolation),
    /// The peer does not accept this side. Why is in its log, under `id`.
    #[error("refused by the peer: {code}; its log has the reason under the id {id}")]
    RefusedByPeer {
        /// What kind of refusal it is, in lower-case letters and hyphens.
        code: String,
        /// Where to find the reason in the peer's log.
        id: CorrelationId,
    },
    /// The peer's evidence was not accepted.
    #[error("refused the peer ({id}): {refusals}")]
    Refused {
        /// Every objection.
        refusals: Refusals,
        /// What the peer was told in place of the reason.
        id: CorrelationId,
    },
    /// The peer demands evidence and there is no TEE to make it. The peer has its reason under `id`.
    #[error(
        "the peer demands evidence and this side has none ({id}): run in a TEE, or for tests with \
         the simulated one"
    )]
    NoEvidenceSource {
        /// Where to find the refusal in the peer's log.
        id: CorrelationId,
    },
    /// The peer demands evidence and the TEE did not make it.
    #[error("the peer demands evidence, but there is none to give")]
    Evidence(#[from] AttesterError),
    /// The caller asks for more keys than a challenge holds.
    #[error("{got} keys to certify, at most {MAX_CERTIFIED_KEYS} are possible")]
    TooManyKeys {
        /// How many were asked for.
        got: usize,
    },
    /// Others waited, and this peer took its time.
    #[error("gave way to other connections while waiting for the peer")]
    Evicted,
    /// HTTP/2 could not be set up on the attested connection.
    #[error("cannot set up gRPC on the attested connection")]
    Channel(#[source] tonic::transport::Error),
    /// The operating system gave no random bytes.
    #[error("cannot get random bytes")]
    Random,
    /// A task of ours panicked, or the runtime is shutting down.
    #[error("interrupted: the process is shutting down, or a task panicked")]
    Interrupted,
}

impl From<io::Error> for AttestedTlsError {
    fn from(error: io::Error) -> Self {
        // tokio-rustls wraps what rustls says into an I/O error.
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Io(error),
        }
    }
}

/// What a peer did against the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolViolation {
    /// The handshake did not agree on [`ALPN`](crate::ALPN).
    #[error("it did not offer or choose the application protocol sealwire-attested/1")]
    Alpn,
    /// A message that claims to be longer than its kind can be.
    #[error("{message} of {got} bytes, at most {limit} are possible")]
    TooLong {
        /// The message.
        message: &'static str,
        /// The length that it claims, in bytes.
        got: usize,
        /// The greatest length, in bytes.
        limit: usize,
    },
    /// A message that can't be read.
    #[error("{message}: {error}")]
    Malformed {
        /// The message.
        message: &'static str,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// Evidence that nobody asked for.
    #[error("evidence that was not asked for")]
    UnwantedEvidence,
}

/// What a refusal is called in the logs of both sides. Says nothing by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CorrelationId(pub [u8; 8]);

impl CorrelationId {
    pub(crate) fn random() -> Result<Self, AttestedTlsError> {
        let mut id = [0; 8];
        rand::fill(&mut id).map_err(|_| AttestedTlsError::Random)?;
        Ok(Self(id))
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
