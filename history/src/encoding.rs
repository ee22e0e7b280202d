//! The form in which transitions are stored and hashed: fixed-size fields, big-endian numbers, and
//! byte strings behind their length (8 bytes). Every value has exactly one encoding.

use crate::transition::{TransitionError, TransitionPart};

/// Appends `bytes` behind their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// What is left to read.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        part: TransitionPart,
    ) -> Result<[u8; N], TransitionError> {
        let (value, rest) = self
            .0
            .split_first_chunk()
            .ok_or(TransitionError::Truncated { part })?;
        self.0 = rest;
        Ok(*value)
    }

    pub(crate) fn number(&mut self, part: TransitionPart) -> Result<u64, TransitionError> {
        self.array(part).map(u64::from_be_bytes)
    }

    /// A byte string of at most `max` bytes.
    pub(crate) fn bytes(
        &mut self,
        part: TransitionPart,
        max: usize,
    ) -> Result<&'a [u8], TransitionError> {
        let got = self.number(part)?;
        let len = usize::try_from(got)
            .ok()
            .filter(|len| *len <= max)
            .ok_or(TransitionError::TooLong { part, got, max })?;
        let (value, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(TransitionError::Truncated { part })?;
        self.0 = rest;
        Ok(value)
    }

    pub(crate) fn end(self) -> Result<(), TransitionError> {
        match self.0.len() {
            0 => Ok(()),
            extra => Err(TransitionError::TrailingBytes { extra }),
        }
    }
}
