//! The TLS 1.3 record layer after the handshake (RFC 8446 section 5), in place and without allocation
//! per record. Replaces keys only when told to.

use std::ops::Range;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroizing;

use crate::alert::Alert;
use crate::content::ContentRules;

/// Protects outgoing records.
pub(crate) struct Sealer {
    key: RecordKey,
    records_per_key: u64,
}

impl Sealer {
    pub(crate) fn new(
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
        records_per_key: u64,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            key: RecordKey::new(sequence, secrets)?,
            records_per_key,
        })
    }

    /// Seals the `len` bytes that lie behind the first [`HEADER_LEN`] bytes of `slot`, and returns
    /// the length of the record, `len` + [`OVERHEAD`].
    pub(crate) fn seal(
        &mut self,
        slot: &mut [u8],
        content_type: ContentType,
        len: usize,
    ) -> Result<usize, RecordError> {
        let record = slot
            .get_mut(..len + OVERHEAD)
            .ok_or(RecordError::Internal)?;
        let (header, body) = record.split_at_mut(HEADER_LEN);
        let (content, tag) = body.split_at_mut(len + 1);
        let [high, low] = ((len + 1 + TAG_LEN) as u16).to_be_bytes();
        header.copy_from_slice(&[DATA, LEGACY_VERSION[0], LEGACY_VERSION[1], high, low]);
        content[len] = content_type as u8;
        let sealed = self
            .key
            .aead
            .seal_in_place_separate_tag(self.key.nonce(), Aad::from(header), content)
            .map_err(|_| RecordError::Internal)?;
        tag.copy_from_slice(sealed.as_ref());
        self.key.sequence += 1;
        Ok(len + OVERHEAD)
    }

    /// The number of the next record.
    pub(crate) fn sequence(&self) -> u64 {
        self.key.sequence
    }

    /// Whether the key is to be replaced before the next batch (RFC 8446 section 5.5).
    pub(crate) fn wants_key_update(&self) -> bool {
        self.key.sequence >= last_batch_at(self.records_per_key)
    }

    pub(crate) fn replace_key(
        &mut self,
        secrets: &ConnectionTrafficSecrets,
    ) -> Result<(), RecordError> {
        self.key = RecordKey::new(0, secrets)?;
        Ok(())
    }
}

/// Opens incoming records.
pub(crate) struct Opener {
    key: RecordKey,
    rules: ContentRules,
}

impl Opener {
    pub(crate) fn new(
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
        role: Role,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            key: RecordKey::new(sequence, secrets)?,
            rules: ContentRules::new(role),
        })
    }

    /// The number of the next record, and what is known of the peer's messages: for who opens the
    /// records from now on.
    pub(crate) fn give_away(&mut self) -> (u64, ContentRules) {
        (self.key.sequence, self.rules.take())
    }

    /// Opens one whole record in place, as [`record_len`] has measured it.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let (header, body) = record
            .split_at_mut_checked(HEADER_LEN)
            .ok_or(RecordError::Undecryptable)?;
        let plaintext = self
            .key
            .aead
            .open_in_place(self.key.nonce(), Aad::from(header), body)
            .map_err(|_| RecordError::Undecryptable)?;
        self.key.sequence += 1;
        if plaintext.len() > MAX_PLAINTEXT_LEN + 1 {
            return Err(RecordError::TooLong);
        }
        let len = plaintext
            .iter()
            .rposition(|&byte| byte != 0)
            .ok_or(RecordError::NoContentType)?;
        let (content, content_type) = (&plaintext[..len], plaintext[len]);
        match self.rules.judge(content_type, content)? {
            Opened::Data(data) => Ok(Opened::Data(HEADER_LEN + data.start..HEADER_LEN + data.end)),
            opened => Ok(opened),
        }
    }

    pub(crate) fn replace_key(
        &mut self,
        secrets: &ConnectionTrafficSecrets,
    ) -> Result<(), RecordError> {
        self.key = RecordKey::new(0, secrets)?;
        Ok(())
    }
}

/// What a record held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Application data, at this range of the record.
    Data(Range<usize>),
    /// Nothing that needs an answer.
    Nothing,
    /// The peer's next record is under its next key; it may ask for ours to be replaced as well.
    KeyUpdate { requested: bool },
    /// The peer sends nothing more.
    CloseNotify,
    /// The peer gave up.
    FatalAlert(Alert),
}

/// Which side of the handshake this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What a record that we send holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ContentType {
    Alert = ALERT,
    Handshake = HANDSHAKE,
    Data = DATA,
    #[cfg(test)]
    Padding = 0,
}

/// The length of the record at the beginning of `bytes` with its header, once that is complete.
pub(crate) fn record_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let &[outer, major, minor, high, low, ..] = bytes else {
        return Ok(None);
    };
    if outer != DATA {
        return Err(RecordError::UnexpectedContentType(outer));
    }
    if [major, minor] != LEGACY_VERSION {
        return Err(RecordError::Version([major, minor]));
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_CIPHERTEXT_LEN {
        return Err(RecordError::TooLong);
    }
    Ok(Some(HEADER_LEN + len))
}

/// A `KeyUpdate` message that does not ask for one in return (RFC 8446 section 4.6.3).
pub(crate) const KEY_UPDATE_MESSAGE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

/// What is wrong with a record of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The content type is none that may come after the handshake.
    #[error("unexpected content type {0}")]
    UnexpectedContentType(u8),
    /// The version field is not 0x0303.
    #[error("record version {0:02x?} instead of [03, 03]")]
    Version([u8; 2]),
    /// The header's version or length is wrong; it was the kernel that looked.
    #[error("record with a wrong header")]
    Header,
    /// The record is longer than allowed.
    #[error("record longer than 2^14 bytes of data")]
    TooLong,
    /// The record was forged, damaged, reordered or replayed.
    #[error("record fails its authentication")]
    Undecryptable,
    /// The plaintext is padding only.
    #[error("record without content type")]
    NoContentType,
    /// A handshake or alert record without content.
    #[error("empty handshake or alert record")]
    Empty,
    /// Too many records in a row without application data.
    #[error("more than {MAX_FRUITLESS_RECORDS} records in a row without data")]
    Flood,
    /// A record of another type between the parts of a handshake message.
    #[error("record of another type within a handshake message")]
    Interleaved,
    /// A handshake message that may not come now.
    #[error("unexpected handshake message {0}")]
    UnexpectedHandshake(u8),
    /// A handshake message longer than allowed.
    #[error("handshake message of {0} bytes")]
    HandshakeTooLong(usize),
    /// A message in the same record behind a `KeyUpdate`.
    #[error("message behind a KeyUpdate in the same record")]
    BehindKeyUpdate,
    /// An alert or `KeyUpdate` of wrong form.
    #[error("malformed alert or KeyUpdate")]
    Malformed,
    /// The fault is on this side.
    #[error("encryption failed on this side")]
    Internal,
}

impl RecordError {
    /// The alert that tells the peer (RFC 8446 section 6.2).
    pub(crate) fn alert(self) -> Alert {
        match self {
            Self::UnexpectedContentType(_)
            | Self::NoContentType
            | Self::Empty
            | Self::Flood
            | Self::Interleaved
            | Self::UnexpectedHandshake(_)
            | Self::BehindKeyUpdate => Alert::UNEXPECTED_MESSAGE,
            Self::Version(_) | Self::Header => Alert::PROTOCOL_VERSION,
            Self::TooLong => Alert::RECORD_OVERFLOW,
            Self::Undecryptable => Alert::BAD_RECORD_MAC,
            Self::HandshakeTooLong(_) | Self::Malformed => Alert::DECODE_ERROR,
            Self::Internal => Alert::INTERNAL_ERROR,
        }
    }
}

/// One direction's key with the number of the next record.
struct RecordKey {
    aead: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    sequence: u64,
}

impl RecordKey {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&aead::CHACHA20_POLY1305, key, iv)
            }
            _ => return Err(RecordError::Internal),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Internal)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Internal)?;
        Ok(Self {
            aead: LessSafeKey::new(key),
            iv: Zeroizing::new(iv),
            sequence,
        })
    }

    /// RFC 8446 section 5.3. Sealing replaces its key long before the number could wrap; a peer
    /// would need centuries to send as many.
    fn nonce(&self) -> Nonce {
        let mut nonce = *self.iv;
        for (byte, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Content type, version and length.
pub(crate) const HEADER_LEN: usize = 5;
/// The most data that one record may carry.
pub(crate) const MAX_PLAINTEXT_LEN: usize = 1 << 14;
/// The most that may follow a record's header.
pub(crate) const MAX_CIPHERTEXT_LEN: usize = MAX_PLAINTEXT_LEN + 256;
/// What a record adds to its data: header, content type and tag.
pub(crate) const OVERHEAD: usize = HEADER_LEN + 1 + TAG_LEN;

const TAG_LEN: usize = 16;
const LEGACY_VERSION: [u8; 2] = [3, 3];

pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const DATA: u8 = 23;

pub(crate) const KEY_UPDATE: u8 = 24;

/// OpenSSL and rustls allow as many.
pub(crate) const MAX_FRUITLESS_RECORDS: u8 = 32;

/// From which record number on a key may seal no further batch, of this many that it may protect.
pub(crate) fn last_batch_at(records_per_key: u64) -> u64 {
    records_per_key.saturating_sub(KEY_UPDATE_MARGIN)
}

/// More records than one batch seals, so that the check between batches suffices.
const KEY_UPDATE_MARGIN: u64 = 64;

#[cfg(test)]
mod tests;
