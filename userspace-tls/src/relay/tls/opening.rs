//! The receiving direction while its records are opened here.

use std::mem;
use std::task::{Context, Poll, ready};

use kernel_tls::{RxSlot, TrafficKey};
use rustls::ConnectionTrafficSecrets;
use tokio::net::TcpStream;

use super::super::batch::{BATCH_LEN, Batch};
use super::super::{RelayEnd, wire_error};
use crate::content::ContentRules;
use crate::offload::{BulkWatch, Takeover};
use crate::queues::Queues;
use crate::records::{HEADER_LEN, Opened, Opener, RecordError, Role, record_len};

pub(super) struct Opening {
    opener: Opener,
    /// The beginning of a record whose rest has not arrived; mostly empty and without memory.
    held: Vec<u8>,
    watch: BulkWatch,
    /// What the kernel gets when it takes over.
    heir: Option<Heir>,
}

struct Heir {
    slot: RxSlot,
    secrets: ConnectionTrafficSecrets,
}

impl Opening {
    pub(super) fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
        role: Role,
        slot: Option<RxSlot>,
        takeover: Takeover,
    ) -> Result<Self, RecordError> {
        let opener = Opener::new(sequence, &secrets, role)?;
        let slot = slot.filter(|_| takeover != Takeover::Never);
        Ok(Self {
            opener,
            held: Vec::new(),
            watch: BulkWatch::new(takeover),
            heir: slot.map(|slot| Heir { slot, secrets }),
        })
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.held.capacity()
    }

    /// Whether it is time that the kernel opens, and no record has been read in part.
    pub(super) fn may_give_away(&self) -> bool {
        self.heir.is_some() && self.watch.is_due() && self.held.is_empty()
    }

    /// The key with the number of the next record, and what is known of the peer's messages; `None`
    /// unless [`Self::may_give_away`].
    pub(super) fn give_away(
        &mut self,
    ) -> Result<Option<(RxSlot, TrafficKey, ContentRules)>, RelayEnd> {
        if !self.may_give_away() {
            return Ok(None);
        }
        let Some(Heir { slot, secrets }) = self.heir.take() else {
            return Ok(None);
        };
        let (sequence, rules) = self.opener.give_away();
        let key = TrafficKey::from_rustls(sequence, &secrets)?;
        Ok(Some((slot, key, rules)))
    }

    /// Whether the direction has shown itself to be bulk.
    pub(super) fn is_bulk(&self) -> bool {
        self.watch.is_bulk()
    }

    pub(super) fn replace_key(
        &mut self,
        secrets: ConnectionTrafficSecrets,
    ) -> Result<(), RelayEnd> {
        self.opener.replace_key(&secrets)?;
        if let Some(heir) = &mut self.heir {
            heir.secrets = secrets;
        }
        Ok(())
    }

    /// Reads once behind what is held: how much the batch then has.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
    ) -> Poll<Result<usize, RelayEnd>> {
        let held = self.held.len();
        let len = ready!(batch.poll_read(cx, wire, Queues::Tcp, held..self.limit()))
            .map_err(wire_error)?;
        if len == 0 {
            return Poll::Ready(Err(RelayEnd::WireTruncated));
        }
        self.watch.saw(len);
        batch.buffer()[..held].copy_from_slice(&mem::take(&mut self.held));
        Poll::Ready(Ok(held + len))
    }

    /// Where reading stops. Before the kernel takes over: at the end of the record that has begun.
    fn limit(&self) -> usize {
        if self.held.is_empty() || self.heir.is_none() || !self.watch.is_due() {
            return BATCH_LEN;
        }
        match record_len(&self.held) {
            Ok(Some(len)) => len,
            Ok(None) => HEADER_LEN,
            // Opening it will say what is wrong.
            Err(_) => BATCH_LEN,
        }
    }

    /// Opens the record at `at`, if it is complete, and moves `at` behind it.
    pub(super) fn open_next(
        &mut self,
        batch: &mut Batch,
        at: &mut usize,
        filled: usize,
    ) -> Result<Option<Opened>, RecordError> {
        match record_len(&batch.buffer()[*at..filled])? {
            Some(len) if *at + len <= filled => {
                let record = *at..*at + len;
                *at = record.end;
                self.opener.open(&mut batch.buffer()[record]).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Keeps the beginning of a record.
    pub(super) fn hold(&mut self, rest: &[u8]) {
        self.held = rest.to_vec();
    }
}
