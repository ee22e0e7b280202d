//! What the content of a record may be after the handshake, whoever has opened it: this crate or the
//! kernel.

use std::mem;

use crate::alert::Alert;
use crate::records::{
    ALERT, DATA, HANDSHAKE, KEY_UPDATE, MAX_FRUITLESS_RECORDS, Opened, RecordError, Role,
};

/// Judges the contents of the peer's records in their order (RFC 8446 sections 4.6 and 5.1).
pub(crate) struct ContentRules {
    role: Role,
    /// The beginning of a handshake message whose rest is in the next record.
    handshake: Vec<u8>,
    /// Records in a row that carried no application data.
    fruitless: u8,
}

impl ContentRules {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            handshake: Vec::new(),
            fruitless: 0,
        }
    }

    /// Moves what is known out; what stays must not be asked again.
    pub(crate) fn take(&mut self) -> Self {
        mem::replace(self, Self::new(self.role))
    }

    #[cfg(test)]
    pub(crate) fn held_capacity(&self) -> usize {
        self.handshake.capacity()
    }

    /// Judges one record, or the data of several; a range is one of `content`.
    pub(crate) fn judge(
        &mut self,
        content_type: u8,
        content: &[u8],
    ) -> Result<Opened, RecordError> {
        self.count_fruitless(content_type == DATA && !content.is_empty())?;
        match content_type {
            HANDSHAKE => self.handshake(content),
            _ if !self.handshake.is_empty() => Err(RecordError::Interleaved),
            DATA if content.is_empty() => Ok(Opened::Nothing),
            DATA => Ok(Opened::Data(0..content.len())),
            ALERT => alert(content),
            other => Err(RecordError::UnexpectedContentType(other)),
        }
    }

    /// Judges data that nobody here has seen; some, not none.
    pub(crate) fn judge_spliced(&mut self) -> Result<(), RecordError> {
        self.count_fruitless(true)?;
        if self.handshake.is_empty() {
            Ok(())
        } else {
            Err(RecordError::Interleaved)
        }
    }

    fn count_fruitless(&mut self, bears_data: bool) -> Result<(), RecordError> {
        self.fruitless = if bears_data { 0 } else { self.fruitless + 1 };
        if self.fruitless > MAX_FRUITLESS_RECORDS {
            return Err(RecordError::Flood);
        }
        Ok(())
    }

    /// Handshake messages may share a record or span several (RFC 8446 section 5.1).
    fn handshake(&mut self, content: &[u8]) -> Result<Opened, RecordError> {
        if content.is_empty() {
            return Err(RecordError::Empty);
        }
        self.handshake.extend_from_slice(content);
        let messages = mem::take(&mut self.handshake);
        let mut rest = messages.as_slice();
        while let &[kind, high, middle, low, ref body @ ..] = rest {
            let len = u32::from_be_bytes([0, high, middle, low]) as usize;
            if len > MAX_HANDSHAKE_MESSAGE_LEN {
                return Err(RecordError::HandshakeTooLong(len));
            }
            let allowed = match kind {
                KEY_UPDATE => true,
                NEW_SESSION_TICKET => self.role == Role::Client,
                _ => false,
            };
            if !allowed {
                return Err(RecordError::UnexpectedHandshake(kind));
            }
            let Some((body, behind)) = body.split_at_checked(len) else {
                break;
            };
            if kind == KEY_UPDATE {
                let requested = match body {
                    [0] => false,
                    [1] => true,
                    _ => return Err(RecordError::Malformed),
                };
                if !behind.is_empty() {
                    return Err(RecordError::BehindKeyUpdate);
                }
                return Ok(Opened::KeyUpdate { requested });
            }
            rest = behind;
        }
        self.handshake = rest.to_vec();
        Ok(Opened::Nothing)
    }
}

/// In TLS 1.3 the level of an alert says nothing: its description does.
fn alert(content: &[u8]) -> Result<Opened, RecordError> {
    match *content {
        [] => Err(RecordError::Empty),
        [_, description] => Ok(match Alert(description) {
            Alert::CLOSE_NOTIFY => Opened::CloseNotify,
            Alert::USER_CANCELED => Opened::Nothing,
            fatal => Opened::FatalAlert(fatal),
        }),
        _ => Err(RecordError::Malformed),
    }
}

pub(crate) const NEW_SESSION_TICKET: u8 = 4;

/// Tickets are shorter by far.
const MAX_HANDSHAKE_MESSAGE_LEN: usize = 1 << 16;
