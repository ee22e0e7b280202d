//! The sending direction once the kernel has its key: plaintext in, records on the wire.

use std::collections::VecDeque;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kernel_tls::{Drained, RecordType, TrafficKey, Tx};
use tokio::io::{AsyncWrite as _, Interest};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::super::batch::Batch;
use super::super::{RelayEnd, app_error, wire_error};
use super::{fatal, poll_io};
use crate::alert::Alert;
use crate::queues::Queues;
use crate::records::{ContentType, MAX_PLAINTEXT_LEN, last_batch_at};

pub(super) struct KernelSending {
    tx: Tx,
    /// What the kernel has not taken, in order. Plaintext: it can be here only because `tx` is.
    queue: VecDeque<Queued>,
    /// The last read from the program filled a record: more is probably waiting.
    bulk: bool,
    age: KeyUse,
    /// While the kernel still holds records that TCP has no room for.
    draining: Option<Draining>,
}

enum Queued {
    Data {
        bytes: Vec<u8>,
        sent: usize,
    },
    Record {
        record_type: RecordType,
        content: Vec<u8>,
    },
    /// The key for what follows; the `KeyUpdate` stands before it.
    Key(TrafficKey),
}

impl KernelSending {
    pub(super) fn new(tx: Tx, key: &TrafficKey, records_per_key: u64) -> Self {
        Self {
            tx,
            queue: VecDeque::new(),
            bulk: true,
            age: KeyUse::new(key.sequence(), records_per_key),
            draining: None,
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let queued = self.queue.iter().map(|queued| match queued {
            Queued::Data { bytes, .. } => bytes.capacity(),
            Queued::Record { content, .. } => content.capacity(),
            Queued::Key(_) => 0,
        });
        queued.sum()
    }

    /// How much of what one key may protect has been used.
    pub(super) fn key_age(&mut self, wire: &TcpStream) -> Result<KeyAge, RelayEnd> {
        if self.age.needs_a_look() {
            self.age.records = self.tx.sequence(wire)?;
        }
        Ok(self.age.judge())
    }

    /// Reads from the program once; how much came.
    pub(super) fn poll_fetch(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        queues: Queues,
        batch: &mut Batch,
    ) -> Poll<Result<usize, RelayEnd>> {
        let room = if self.bulk {
            BYTES_PER_BATCH
        } else {
            MAX_PLAINTEXT_LEN
        };
        let plaintext = ready!(batch.poll_read(cx, app, queues, 0..room)).map_err(app_error)?;
        self.bulk = plaintext >= MAX_PLAINTEXT_LEN;
        if plaintext > 0 {
            batch.push(0..plaintext);
        }
        Poll::Ready(Ok(plaintext))
    }

    pub(super) fn queue_record(&mut self, content_type: ContentType, content: &[u8]) {
        let record_type = match content_type {
            ContentType::Handshake => RecordType::Handshake,
            _ => RecordType::Alert,
        };
        self.queue.push_back(Queued::Record {
            record_type,
            content: content.to_vec(),
        });
    }

    pub(super) fn queue_key(&mut self, key: TrafficKey) {
        self.queue.push_back(Queued::Key(key));
    }

    pub(super) fn write(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
    ) -> Result<(), RelayEnd> {
        let Some(data) = batch.take_only_part() else {
            return Ok(());
        };
        let (tx, age) = (&mut self.tx, &mut self.age);
        let sent = match poll_io(cx, wire, Interest::WRITABLE, || {
            tx.send(wire, &[IoSlice::new(data)])
        }) {
            Poll::Ready(sent) => sent.map_err(wire_error)?,
            Poll::Pending => 0,
        };
        age.sent(sent);
        if sent < data.len() {
            self.queue.push_back(Queued::Data {
                bytes: data[sent..].to_vec(),
                sent: 0,
            });
        }
        Ok(())
    }

    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
    ) -> Poll<Result<(), RelayEnd>> {
        let Self { tx, queue, age, .. } = self;
        while let Some(first) = queue.front_mut() {
            match first {
                Queued::Data { bytes, sent } => {
                    let rest = &bytes[*sent..];
                    let len = ready!(poll_io(cx, wire, Interest::WRITABLE, || {
                        tx.send(wire, &[IoSlice::new(rest)])
                    }))
                    .map_err(wire_error)?;
                    age.sent(len);
                    *sent += len;
                    if *sent < bytes.len() {
                        continue;
                    }
                }
                Queued::Record {
                    record_type,
                    content,
                } => {
                    ready!(poll_io(cx, wire, Interest::WRITABLE, || {
                        tx.send_record(wire, *record_type, content)
                    }))
                    .map_err(wire_error)?;
                    age.sent(content.len());
                }
                Queued::Key(key) => {
                    tx.replace_key(wire, key)?;
                    *age = KeyUse::new(0, age.records_per_key);
                }
            }
            queue.pop_front();
        }
        *queue = VecDeque::new();
        Poll::Ready(Ok(()))
    }

    /// Waits until TCP has everything: what the kernel's TLS still holds at the end is lost.
    ///
    /// No event tells of it, so it asks now and then.
    pub(super) fn poll_shutdown(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(Draining { pause, length }) = &mut self.draining {
                ready!(pause.as_mut().poll(cx));
                *length = (*length * 2).min(LONGEST_PAUSE);
            }
            let drained = self.tx.drained(wire);
            if drained.map_err(|error| io::Error::from(error.errno))? == Drained::Yes {
                self.draining = None;
                return Pin::new(wire).poll_shutdown(cx);
            }
            let length = self.draining.as_ref().map_or(FIRST_PAUSE, |it| it.length);
            self.draining = Some(Draining {
                pause: Box::pin(sleep(length)),
                length,
            });
        }
    }

    /// The kernel keeps records apart, so that an alert can always be sent; nobody waits for it.
    pub(super) fn last_words(&mut self, wire: &TcpStream, alert: Alert) {
        let _ = self.tx.send_record(wire, RecordType::Alert, &fatal(alert));
    }
}

struct Draining {
    pause: Pin<Box<Sleep>>,
    length: Duration,
}

/// How much of what one key may protect has been used (RFC 8446 section 5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyAge {
    Young,
    /// Told once: when [`OLD_PART`] of its records are left.
    Old,
    UsedUp,
}

/// Counts the records of a key. The kernel says how many there were, but a question for every write
/// would cost as much as the write: so an upper bound is kept, and the kernel asked near the ends.
#[derive(Debug)]
struct KeyUse {
    records_per_key: u64,
    /// Records sealed, or more.
    records: u64,
    told: bool,
}

impl KeyUse {
    fn new(records: u64, records_per_key: u64) -> Self {
        Self {
            records_per_key,
            records,
            told: false,
        }
    }

    /// A write of so many bytes was accepted. It may end in the middle of a record.
    fn sent(&mut self, bytes: usize) {
        self.records += (bytes / MAX_PLAINTEXT_LEN) as u64 + 1;
    }

    fn used_up_at(&self) -> u64 {
        last_batch_at(self.records_per_key)
    }

    fn old_at(&self) -> u64 {
        self.used_up_at() - self.used_up_at() / OLD_PART
    }

    fn needs_a_look(&self) -> bool {
        let next = if self.told {
            self.used_up_at()
        } else {
            self.old_at()
        };
        self.records >= next
    }

    fn judge(&mut self) -> KeyAge {
        if self.records >= self.used_up_at() {
            KeyAge::UsedUp
        } else if self.records >= self.old_at() && !self.told {
            self.told = true;
            KeyAge::Old
        } else {
            KeyAge::Young
        }
    }
}

/// One sixteenth: of AES-GCM's 2^24 records that is a million, 16 GiB in full ones.
const OLD_PART: u64 = 16;

/// As many full records as userspace seals in one go.
const BYTES_PER_BATCH: usize = 16 * MAX_PLAINTEXT_LEN;

/// The kernel holds one record at most; a peer that reads makes room within a round trip.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_old_once_and_then_used_up() {
        let mut age = KeyUse::new(0, 1064);
        let mut seen = Vec::new();
        while age.judge() != KeyAge::UsedUp {
            seen.push(age.judge());
            age.sent(MAX_PLAINTEXT_LEN - 1);
        }
        assert_eq!(age.records, 1000);
        assert_eq!(seen.iter().filter(|age| **age == KeyAge::Old).count(), 0);
        let mut age = KeyUse::new(0, 1064);
        let told: Vec<u64> = (0..1000)
            .filter(|_| {
                let old = age.judge() == KeyAge::Old;
                age.sent(1);
                old
            })
            .collect();
        assert_eq!(told, [938]);
    }

    #[test]
    fn what_a_write_can_have_sealed_is_never_counted_low() {
        for (bytes, records) in [
            (1, 1),
            (MAX_PLAINTEXT_LEN, 2),
            (3 * MAX_PLAINTEXT_LEN + 1, 4),
        ] {
            let mut age = KeyUse::new(0, 1 << 24);
            age.sent(bytes);
            assert_eq!(age.records, records);
        }
    }

    #[test]
    fn the_kernel_is_asked_only_near_the_ends() {
        let mut age = KeyUse::new(0, 1064);
        assert!(!age.needs_a_look());
        age.records = 938;
        assert!(age.needs_a_look());
        assert_eq!(age.judge(), KeyAge::Old);
        assert!(!age.needs_a_look());
        age.records = 1000;
        assert!(age.needs_a_look());
        // A cipher without a limit.
        let age = KeyUse::new(1 << 60, u64::MAX);
        assert!(!age.needs_a_look());
    }
}
