//! The sending direction while its records are sealed here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use kernel_tls::{TrafficKey, TxSlot};
use rustls::ConnectionTrafficSecrets;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::super::backlog::Backlog;
use super::super::batch::Batch;
use super::super::{RelayEnd, app_error, wire_error};
use super::fatal;
use crate::alert::Alert;
use crate::offload::{BulkWatch, Takeover};
use crate::queues::Queues;
use crate::records::{
    ContentType, HEADER_LEN, KEY_UPDATE_MESSAGE, MAX_PLAINTEXT_LEN, OVERHEAD, RecordError, Sealer,
};

pub(super) struct Sealing {
    sealer: Sealer,
    /// Records that the socket has not taken.
    backlog: Backlog,
    /// The last read from the program filled its slot: more is probably waiting.
    bulk: bool,
    watch: BulkWatch,
    /// What the kernel gets when it takes over.
    heir: Option<Heir>,
}

struct Heir {
    slot: TxSlot,
    secrets: ConnectionTrafficSecrets,
}

impl Sealing {
    pub(super) fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
        records_per_key: u64,
        slot: Option<TxSlot>,
        takeover: Takeover,
    ) -> Result<Self, RecordError> {
        let sealer = Sealer::new(sequence, &secrets, records_per_key)?;
        let slot = slot.filter(|_| takeover != Takeover::Never);
        Ok(Self {
            sealer,
            backlog: Backlog::default(),
            bulk: false,
            watch: BulkWatch::new(takeover),
            heir: slot.map(|slot| Heir { slot, secrets }),
        })
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.backlog.capacity()
    }

    /// The key with the number of the next record, if it is time that the kernel has it; from then
    /// on nothing may be sealed here. Nothing is given away while records of here are waiting.
    pub(super) fn give_away(&mut self) -> Result<Option<(TxSlot, TrafficKey)>, RelayEnd> {
        if !self.watch.is_due() || !self.backlog.is_empty() {
            return Ok(None);
        }
        let Some(Heir { slot, secrets }) = self.heir.take() else {
            return Ok(None);
        };
        let key = TrafficKey::from_rustls(self.sealer.sequence(), &secrets)?;
        Ok(Some((slot, key)))
    }

    /// Whether the direction has shown itself to be bulk.
    pub(super) fn is_bulk(&self) -> bool {
        self.watch.is_bulk()
    }

    pub(super) fn wants_key_update(&self) -> bool {
        self.sealer.wants_key_update()
    }

    pub(super) fn replace_key(
        &mut self,
        secrets: ConnectionTrafficSecrets,
    ) -> Result<(), RelayEnd> {
        self.sealer.replace_key(&secrets)?;
        if let Some(heir) = &mut self.heir {
            heir.secrets = secrets;
        }
        Ok(())
    }

    /// Reads from the program once and seals what came; how much that was.
    pub(super) fn poll_fetch(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        queues: Queues,
        batch: &mut Batch,
    ) -> Poll<Result<usize, RelayEnd>> {
        let plaintext = if self.bulk {
            ready!(batch.poll_read_slots(cx, app, queues))
        } else {
            ready!(batch.poll_read(cx, app, queues, HEADER_LEN..HEADER_LEN + MAX_PLAINTEXT_LEN))
        }
        .map_err(app_error)?;
        if plaintext == 0 {
            return Poll::Ready(Ok(0));
        }
        self.bulk = plaintext >= MAX_PLAINTEXT_LEN;
        self.watch.saw(plaintext);
        let mut unsealed = plaintext;
        let mut sealed = 0;
        for slot in batch.slots() {
            let len = unsealed.min(MAX_PLAINTEXT_LEN);
            sealed += self.sealer.seal(slot, ContentType::Data, len)?;
            unsealed -= len;
            if unsealed == 0 {
                break;
            }
        }
        batch.push(0..sealed);
        Poll::Ready(Ok(plaintext))
    }

    pub(super) fn push_record<const N: usize>(
        &mut self,
        content_type: ContentType,
        content: &[u8; N],
    ) -> Result<(), RelayEnd> {
        let mut record = [0; CONTROL_RECORD_LEN];
        record[HEADER_LEN..HEADER_LEN + N].copy_from_slice(content);
        let len = self.sealer.seal(&mut record, content_type, N)?;
        self.backlog.push(&record[..len]);
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
    ) -> Result<(), RelayEnd> {
        batch
            .poll_write(cx, wire, &mut self.backlog)
            .map_err(wire_error)
    }

    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
    ) -> Poll<Result<(), RelayEnd>> {
        self.backlog.poll_flush(cx, wire).map_err(wire_error)
    }

    #[expect(
        clippy::unused_self,
        reason = "as the kernel's side, which waits first"
    )]
    pub(super) fn poll_shutdown(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        Pin::new(wire).poll_shutdown(cx)
    }

    /// An alert can be sent only between records, and nobody waits for it.
    pub(super) fn last_words(&mut self, cx: &mut Context<'_>, wire: &mut TcpStream, alert: Alert) {
        if self.backlog.is_empty() {
            let _ = self.push_record(ContentType::Alert, &fatal(alert));
            let _ = self.backlog.poll_flush(cx, wire);
        }
    }
}

/// Room for a `KeyUpdate` or an alert.
const CONTROL_RECORD_LEN: usize = KEY_UPDATE_MESSAGE.len() + OVERHEAD;
