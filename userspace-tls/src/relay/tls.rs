//! TLS records on the wire.

use std::mem;
use std::task::{Context, Poll, ready};

use rustls::ConnectionTrafficSecrets;
use tokio::net::TcpStream;

use super::backlog::Backlog;
use super::batch::{BATCH_LEN, Batch};
use super::wire::{Fetched, Tail, Wire};
use super::{RelayEnd, app_error, wire_error};
use crate::alert::{Alert, FATAL};
use crate::records::{
    ContentType, HEADER_LEN, KEY_UPDATE_MESSAGE, MAX_PLAINTEXT_LEN, OVERHEAD, Opened, Opener,
    RecordError, Role, Sealer, record_len,
};
use crate::session::{KeySchedule, Session};

/// One connection's keys and the ciphertext that could not be opened yet.
pub(super) struct TlsWire {
    sealer: Sealer,
    opener: Opener,
    keys: KeySchedule,
    /// The beginning of a record whose rest has not arrived; mostly empty and without memory.
    held: Vec<u8>,
    /// The last read from the program filled its slot: more is probably waiting.
    bulk: bool,
    /// A `KeyUpdate` of ours has not left yet; it answers further requests of the peer as well.
    key_update_queued: bool,
    finished: bool,
}

impl TlsWire {
    pub(super) fn new(session: Session) -> Result<Self, RecordError> {
        let Session {
            secrets,
            keys,
            records_per_key,
        } = session;
        let role = match keys {
            KeySchedule::Client(_) => Role::Client,
            KeySchedule::Server(_) => Role::Server,
        };
        Ok(Self {
            sealer: Sealer::new(secrets.tx.0, &secrets.tx.1, records_per_key)?,
            opener: Opener::new(secrets.rx.0, &secrets.rx.1, role)?,
            keys,
            held: Vec::new(),
            bulk: false,
            key_update_queued: false,
            finished: false,
        })
    }

    #[cfg(test)]
    pub(super) fn held_capacity(&self) -> usize {
        self.held.capacity()
    }

    /// Opens the records in the first `filled` bytes of `batch` and holds what remains.
    fn open(&mut self, batch: &mut Batch, filled: usize, to_wire: &mut Backlog) -> Fetched {
        let mut fetched = Fetched::default();
        let mut at = 0;
        fetched.tail = loop {
            let record = match record_len(&batch.buffer()[at..filled]) {
                Ok(Some(len)) if at + len <= filled => at..at + len,
                Ok(_) => break Tail::Open,
                Err(error) => break Tail::Failed(RelayEnd::BadRecord(error)),
            };
            let start = mem::replace(&mut at, record.end);
            match self.opener.open(&mut batch.buffer()[record]) {
                Ok(Opened::Data(data)) => {
                    fetched.plaintext += data.len();
                    batch.push(start + data.start..start + data.end);
                }
                Ok(Opened::Nothing) => {}
                Ok(Opened::KeyUpdate { requested }) => {
                    if let Err(error) = self.follow_key_update(requested, to_wire) {
                        break Tail::Failed(RelayEnd::BadRecord(error));
                    }
                }
                Ok(Opened::CloseNotify) => break Tail::Finished,
                Ok(Opened::FatalAlert(alert)) => break Tail::Failed(RelayEnd::PeerAlert(alert)),
                Err(error) => break Tail::Failed(RelayEnd::BadRecord(error)),
            }
        };
        self.held = match fetched.tail {
            Tail::Open => batch.buffer()[at..filled].to_vec(),
            Tail::Finished | Tail::Failed(_) => Vec::new(),
        };
        fetched
    }

    fn follow_key_update(
        &mut self,
        requested: bool,
        to_wire: &mut Backlog,
    ) -> Result<(), RecordError> {
        self.opener.replace_key(&next(self.keys.next_rx())?)?;
        if requested && !self.key_update_queued && !self.finished {
            self.send_key_update(to_wire)?;
        }
        Ok(())
    }

    /// The message itself goes under the old key.
    fn send_key_update(&mut self, to_wire: &mut Backlog) -> Result<(), RecordError> {
        self.push_record(ContentType::Handshake, &KEY_UPDATE_MESSAGE, to_wire)?;
        self.key_update_queued = true;
        self.sealer.replace_key(&next(self.keys.next_tx())?)
    }

    fn push_record<const N: usize>(
        &mut self,
        content_type: ContentType,
        content: &[u8; N],
        to_wire: &mut Backlog,
    ) -> Result<(), RecordError> {
        let mut record = [0; CONTROL_RECORD_LEN];
        record[HEADER_LEN..HEADER_LEN + N].copy_from_slice(content);
        let len = self.sealer.seal(&mut record, content_type, N)?;
        to_wire.push(&record[..len]);
        Ok(())
    }
}

impl Wire for TlsWire {
    fn poll_fetch_outbound(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        batch: &mut Batch,
        to_wire: &mut Backlog,
    ) -> Poll<Result<Fetched, RelayEnd>> {
        self.key_update_queued = false;
        if self.sealer.wants_key_update() {
            self.send_key_update(to_wire).map_err(RelayEnd::BadRecord)?;
            return Poll::Ready(Ok(Fetched::default()));
        }
        let plaintext = if self.bulk {
            ready!(batch.poll_read_slots(cx, app))
        } else {
            ready!(batch.poll_read(cx, app, HEADER_LEN..HEADER_LEN + MAX_PLAINTEXT_LEN))
        }
        .map_err(app_error)?;
        if plaintext == 0 {
            return Poll::Ready(Ok(Fetched {
                plaintext,
                tail: Tail::Finished,
            }));
        }
        self.bulk = plaintext >= MAX_PLAINTEXT_LEN;
        let mut unsealed = plaintext;
        let mut sealed = 0;
        for slot in batch.slots() {
            let len = unsealed.min(MAX_PLAINTEXT_LEN);
            sealed += self
                .sealer
                .seal(slot, ContentType::Data, len)
                .map_err(RelayEnd::BadRecord)?;
            unsealed -= len;
            if unsealed == 0 {
                break;
            }
        }
        batch.push(0..sealed);
        Poll::Ready(Ok(Fetched {
            plaintext,
            tail: Tail::Open,
        }))
    }

    fn poll_fetch_inbound(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
        to_wire: &mut Backlog,
    ) -> Poll<Result<Fetched, RelayEnd>> {
        let held = self.held.len();
        let len = ready!(batch.poll_read(cx, wire, held..BATCH_LEN)).map_err(wire_error)?;
        if len == 0 {
            return Poll::Ready(Err(RelayEnd::WireTruncated));
        }
        batch.buffer()[..held].copy_from_slice(&self.held);
        Poll::Ready(Ok(self.open(batch, held + len, to_wire)))
    }

    fn finish(&mut self, to_wire: &mut Backlog) -> Result<(), RelayEnd> {
        self.finished = true;
        self.push_record(
            ContentType::Alert,
            &[WARNING, Alert::CLOSE_NOTIFY.0],
            to_wire,
        )
        .map_err(RelayEnd::BadRecord)
    }

    fn give_up(&mut self, end: RelayEnd, to_wire: &mut Backlog) {
        let alert = match end {
            RelayEnd::BadRecord(error) => error.alert(),
            RelayEnd::Stopped => Alert::ACCESS_DENIED,
            _ => return,
        };
        // Nothing may follow `close_notify`; and if even this cannot be sealed, the reset has to
        // say it.
        if !self.finished {
            let _ = self.push_record(ContentType::Alert, &[FATAL, alert.0], to_wire);
        }
    }
}

fn next(
    secrets: Result<ConnectionTrafficSecrets, rustls::Error>,
) -> Result<ConnectionTrafficSecrets, RecordError> {
    secrets.map_err(|_| RecordError::Internal)
}

const WARNING: u8 = 1;

/// Room for a `KeyUpdate` or an alert.
const CONTROL_RECORD_LEN: usize = KEY_UPDATE_MESSAGE.len() + OVERHEAD;
