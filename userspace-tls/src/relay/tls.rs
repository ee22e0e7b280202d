//! TLS records on the wire. Either direction is protected here or, once the kernel has its key,
//! there; the rules of what the peer may send are the same.

mod kernel_receiving;
mod kernel_sending;
mod key_use;
mod opening;
mod readable;
mod sealing;

use std::io;
use std::task::{Context, Poll, ready};

use kernel_tls::{SocketError, TrafficKey, Ulp};
use rustls::ConnectionTrafficSecrets;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::RelayEnd;
use super::batch::Batch;
use super::to_app::ToApp;
use super::wire::{Fetched, Tail, Wire};
use crate::alert::{Alert, FATAL};
use crate::offload::{Events, Flow, Offload, SpliceWatch};
use crate::queues::{ChatWatch, Queues};
use crate::records::{ContentType, KEY_UPDATE_MESSAGE, Opened, RecordError, Role};
use crate::session::{KeySchedule, Session};
use kernel_receiving::{Brought, KernelReceiving};
use kernel_sending::KernelSending;
use key_use::{KeyAge, KeyUse};
use opening::Opening;
use readable::Readable;
use sealing::Sealing;

/// One connection's keys and what could not be opened or written yet.
pub(super) struct TlsWire<'a, E> {
    tx: Tx,
    rx: Rx,
    keys: KeySchedule,
    records_per_key: u64,
    /// Whether the kernel can replace a key.
    rekey: bool,
    /// Whether bulk is spliced where the kernel has the key.
    splice: bool,
    /// A `KeyUpdate` of ours has not left yet; it answers further requests of the peer as well.
    key_update_queued: bool,
    finished: bool,
    chat: ChatWatch,
    /// Where the program's bytes wait.
    queues: Queues,
    events: &'a E,
}

/// Who seals. Each holds what the socket has not taken in the form that the socket then wants: records
/// here, plaintext only there.
enum Tx {
    Userspace(Sealing),
    Kernel(KernelSending),
}

/// Who opens.
enum Rx {
    Userspace(Opening),
    Kernel(KernelReceiving),
}

impl<'a, E: Events> TlsWire<'a, E> {
    pub(super) fn new(
        session: Session,
        ulp: Option<Ulp>,
        offload: Offload,
        events: &'a E,
    ) -> Result<Self, RecordError> {
        let Session {
            secrets,
            keys,
            records_per_key,
        } = session;
        let role = match keys {
            KeySchedule::Client(_) => Role::Client,
            KeySchedule::Server(_) => Role::Server,
        };
        let (tx_slot, rx_slot) = ulp.map(|Ulp { tx, rx }| (tx, rx)).unzip();
        Ok(Self {
            tx: Tx::Userspace(Sealing::new(
                secrets.tx,
                records_per_key,
                tx_slot,
                offload.tx,
            )?),
            rx: Rx::Userspace(Opening::new(secrets.rx, role, rx_slot, offload.rx)?),
            keys,
            records_per_key,
            rekey: offload.rekey,
            splice: offload.splice,
            key_update_queued: false,
            finished: false,
            chat: ChatWatch::default(),
            queues: Queues::Tcp,
            events,
        })
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let tx = match &self.tx {
            Tx::Userspace(sealing) => sealing.capacity(),
            Tx::Kernel(sending) => sending.capacity(),
        };
        let rx = match &self.rx {
            Rx::Userspace(opening) => opening.capacity(),
            Rx::Kernel(_) => 0,
        };
        tx + rx
    }

    /// Hands the sending direction to the kernel if it is time. Nothing sealed here may be waiting.
    fn take_over_tx(&mut self, wire: &TcpStream) -> Result<(), RelayEnd> {
        if let Tx::Userspace(sealing) = &mut self.tx
            && let Some((slot, key)) = sealing.give_away()?
        {
            let splicing = SpliceWatch::new(self.splice, sealing.is_bulk());
            let tx = slot.install(wire, &key).map_err(RelayEnd::KernelTls)?;
            let age = KeyUse::new(key.sequence(), self.records_per_key);
            self.tx = Tx::Kernel(KernelSending::new(tx, age, splicing));
            self.events.taken_over(Flow::Sent);
        }
        Ok(())
    }

    /// The same for the receiving direction, at the end of a record. Where no descriptor is left for
    /// what the kernel's way needs, it stays here.
    fn take_over_rx(&mut self, wire: &TcpStream) -> Result<(), RelayEnd> {
        if let Rx::Userspace(opening) = &mut self.rx
            && opening.may_give_away()
            && let Ok(readable) = Readable::new(wire)
            && let Some((slot, key, rules)) = opening.give_away()?
        {
            let splicing = SpliceWatch::new(self.splice, opening.is_bulk());
            let rx = slot.install(wire, &key).map_err(RelayEnd::KernelTls)?;
            self.rx = Rx::Kernel(KernelReceiving::new(rx, rules, splicing, readable));
            self.events.taken_over(Flow::Received);
        }
        Ok(())
    }

    /// Follows what a record was, whoever has opened it: how the direction goes on.
    fn follow(&mut self, opened: &Opened, wire: &TcpStream) -> Tail {
        match opened {
            Opened::Data(_) | Opened::Nothing => Tail::Open,
            Opened::KeyUpdate { requested } => match self.follow_key_update(*requested, wire) {
                Ok(()) => Tail::Open,
                Err(end) => Tail::Failed(end),
            },
            Opened::CloseNotify => Tail::Finished,
            Opened::FatalAlert(alert) => Tail::Failed(RelayEnd::PeerAlert(*alert)),
        }
    }

    /// The peer's next record is under its next key. Where the kernel opens and can't replace its
    /// key, the connection ends before that record is read.
    fn follow_key_update(&mut self, requested: bool, wire: &TcpStream) -> Result<(), RelayEnd> {
        match &mut self.rx {
            Rx::Userspace(opening) => opening.replace_key(next(self.keys.next_rx())?)?,
            Rx::Kernel(_) if !self.rekey => return Err(RelayEnd::KeyUpdate),
            Rx::Kernel(receiving) => {
                receiving.replace_key(wire, &traffic_key(&next(self.keys.next_rx())?)?)?;
            }
        }
        if requested && self.can_update_key() && !self.key_update_queued && !self.finished {
            self.send_key_update()?;
        }
        Ok(())
    }

    fn can_update_key(&self) -> bool {
        match self.tx {
            Tx::Userspace(_) => true,
            Tx::Kernel(_) => self.rekey,
        }
    }

    /// The message itself goes under the old key.
    fn send_key_update(&mut self) -> Result<(), RelayEnd> {
        self.push_record(ContentType::Handshake, &KEY_UPDATE_MESSAGE)?;
        self.key_update_queued = true;
        let secrets = next(self.keys.next_tx())?;
        match &mut self.tx {
            Tx::Userspace(sealing) => sealing.replace_key(secrets),
            Tx::Kernel(sending) => {
                sending.queue_key(traffic_key(&secrets)?);
                Ok(())
            }
        }
    }

    fn push_record<const N: usize>(
        &mut self,
        content_type: ContentType,
        content: &[u8; N],
    ) -> Result<(), RelayEnd> {
        match &mut self.tx {
            Tx::Userspace(sealing) => sealing.push_record(content_type, content),
            Tx::Kernel(sending) => {
                sending.queue_record(content_type, content);
                Ok(())
            }
        }
    }
}

impl<E: Events> Wire for TlsWire<'_, E> {
    fn poll_fetch_outbound(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        wire: &mut TcpStream,
        batch: &mut Batch,
    ) -> Poll<Result<Fetched, RelayEnd>> {
        self.key_update_queued = false;
        self.take_over_tx(wire)?;
        let is_key_old = match &mut self.tx {
            Tx::Userspace(sealing) => sealing.wants_key_update(),
            Tx::Kernel(sending) => match sending.key_age(wire)? {
                KeyAge::Young => false,
                KeyAge::Old if self.rekey => false,
                KeyAge::Old => {
                    self.events.key_limit_near();
                    false
                }
                KeyAge::UsedUp if self.rekey => true,
                KeyAge::UsedUp => return Poll::Ready(Err(RelayEnd::KeyLimit)),
            },
        };
        if is_key_old {
            self.send_key_update()?;
            return Poll::Ready(Ok(Fetched::default()));
        }
        let plaintext = ready!(match &mut self.tx {
            Tx::Userspace(sealing) => sealing.poll_fetch(cx, app, self.queues, batch),
            Tx::Kernel(sending) => sending.poll_fetch(cx, app, self.queues, batch),
        })?;
        let tail = match plaintext {
            0 => Tail::Finished,
            _ => Tail::Open,
        };
        let spliced = match &self.tx {
            Tx::Userspace(_) => false,
            Tx::Kernel(sending) => sending.has_spliced(),
        };
        if plaintext > 0 && self.chat.saw(plaintext) {
            self.queues = self.events.chatty(app);
        }
        Poll::Ready(Ok(Fetched {
            plaintext,
            spliced,
            tail,
        }))
    }

    fn poll_fetch_inbound(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
        to_app: &mut ToApp,
    ) -> Poll<Result<Fetched, RelayEnd>> {
        self.take_over_rx(wire)?;
        match &mut self.rx {
            Rx::Userspace(opening) => {
                let filled = ready!(opening.poll_fill(cx, wire, batch))?;
                Poll::Ready(Ok(self.open(wire, batch, filled)))
            }
            Rx::Kernel(receiving) => {
                let brought = ready!(receiving.poll_fetch(cx, wire, batch, to_app))?;
                let opened = match brought {
                    Brought::Spliced(plaintext) => {
                        return Poll::Ready(Ok(Fetched {
                            plaintext,
                            spliced: true,
                            tail: Tail::Open,
                        }));
                    }
                    Brought::Copied(opened) => opened,
                };
                let plaintext = match &opened {
                    Opened::Data(data) => data.len(),
                    _ => 0,
                };
                Poll::Ready(Ok(Fetched {
                    plaintext,
                    spliced: false,
                    tail: self.follow(&opened, wire),
                }))
            }
        }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
    ) -> Result<(), RelayEnd> {
        match &mut self.tx {
            Tx::Userspace(sealing) => sealing.write(cx, wire, batch),
            Tx::Kernel(sending) => sending.write(cx, wire, batch),
        }
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
    ) -> Poll<Result<(), RelayEnd>> {
        match &mut self.tx {
            Tx::Userspace(sealing) => sealing.poll_flush(cx, wire),
            Tx::Kernel(sending) => sending.poll_flush(cx, wire),
        }
    }

    fn finish(&mut self) -> Result<(), RelayEnd> {
        self.finished = true;
        self.push_record(ContentType::Alert, &[WARNING, Alert::CLOSE_NOTIFY.0])
    }

    fn poll_shutdown(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        match &mut self.tx {
            Tx::Userspace(sealing) => sealing.poll_shutdown(cx, wire),
            Tx::Kernel(sending) => sending.poll_shutdown(cx, wire),
        }
    }

    fn give_up(&mut self, cx: &mut Context<'_>, wire: &mut TcpStream, end: RelayEnd) {
        let alert = match end {
            RelayEnd::BadRecord(error) => error.alert(),
            RelayEnd::Stopped => Alert::ACCESS_DENIED,
            RelayEnd::KeyUpdate | RelayEnd::KeyLimit => Alert::INTERNAL_ERROR,
            // After a failed key nobody knows in which form the socket wants its bytes.
            _ => return,
        };
        // Nothing may follow `close_notify`; and if even this cannot be sent, the reset has to say
        // it.
        if self.finished {
            return;
        }
        if let Rx::Kernel(_) = self.rx {
            // A record that could not be opened leaves its error on the socket, for the next write.
            let _ = SockRef::from(&*wire).take_error();
        }
        match &mut self.tx {
            Tx::Userspace(sealing) => sealing.last_words(cx, wire, alert),
            Tx::Kernel(sending) => sending.last_words(wire, alert),
        }
    }
}

impl<E: Events> TlsWire<'_, E> {
    /// Opens the records in the first `filled` bytes of `batch` and holds what remains.
    fn open(&mut self, wire: &TcpStream, batch: &mut Batch, filled: usize) -> Fetched {
        let mut fetched = Fetched::default();
        let mut at = 0;
        while let Tail::Open = fetched.tail {
            let Rx::Userspace(opening) = &mut self.rx else {
                break;
            };
            let start = at;
            let opened = match opening.open_next(batch, &mut at, filled) {
                Ok(Some(opened)) => opened,
                Ok(None) => break,
                Err(error) => {
                    fetched.tail = Tail::Failed(RelayEnd::BadRecord(error));
                    break;
                }
            };
            if let Opened::Data(data) = &opened {
                fetched.plaintext += data.len();
                batch.push(start + data.start..start + data.end);
            }
            fetched.tail = self.follow(&opened, wire);
        }
        if let (Rx::Userspace(opening), Tail::Open) = (&mut self.rx, fetched.tail) {
            opening.hold(&batch.buffer()[at..filled]);
        }
        fetched
    }
}

impl From<RecordError> for RelayEnd {
    fn from(error: RecordError) -> Self {
        Self::BadRecord(error)
    }
}

impl From<SocketError> for RelayEnd {
    fn from(error: SocketError) -> Self {
        Self::KernelTls(error)
    }
}

fn next(
    secrets: Result<ConnectionTrafficSecrets, rustls::Error>,
) -> Result<ConnectionTrafficSecrets, RecordError> {
    secrets.map_err(|_| RecordError::Internal)
}

/// The first record under a new key is number zero (RFC 8446 section 5.3).
fn traffic_key(secrets: &ConnectionTrafficSecrets) -> Result<TrafficKey, RelayEnd> {
    Ok(TrafficKey::from_rustls(0, secrets)?)
}

const WARNING: u8 = 1;

/// An alert as the record that carries it.
fn fatal(alert: Alert) -> [u8; 2] {
    [FATAL, alert.0]
}
