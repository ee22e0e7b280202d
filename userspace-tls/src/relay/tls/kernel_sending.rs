//! The sending direction once the kernel has its key: plaintext in, records on the wire.

use std::collections::VecDeque;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kernel_tls::{Drained, Pipe, RecordType, TrafficKey, Tx};
use tokio::io::{AsyncWrite as _, Interest};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::super::batch::Batch;
use super::super::ready::poll_io;
use super::super::{RelayEnd, app_error, wire_error};
use super::fatal;
use super::key_use::{KeyAge, KeyUse};
use crate::alert::Alert;
use crate::offload::SpliceWatch;
use crate::queues::Queues;
use crate::records::{ContentType, MAX_PLAINTEXT_LEN};

pub(super) struct KernelSending {
    tx: Tx,
    /// What was spliced from the program and the kernel has not taken. Before all that is queued.
    pipe: Option<Pipe>,
    /// What else the kernel has not taken, in order. Plaintext: it can be here only because `tx` is.
    queue: VecDeque<Queued>,
    /// The last read from the program filled a record: more is probably waiting.
    bulk: bool,
    splicing: SpliceWatch,
    age: KeyUse,
    starvation: Starvation,
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
    pub(super) fn new(tx: Tx, age: KeyUse, splicing: SpliceWatch) -> Self {
        Self {
            tx,
            pipe: None,
            queue: VecDeque::new(),
            bulk: true,
            splicing,
            age,
            starvation: Starvation::default(),
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
        queued.sum::<usize>() + self.pipe.as_ref().map_or(0, Pipe::held)
    }

    /// How much of what one key may protect has been used.
    pub(super) fn key_age(&mut self, wire: &TcpStream) -> Result<KeyAge, RelayEnd> {
        let Self { tx, age, .. } = self;
        Ok(age.age(|| tx.sequence(wire))?)
    }

    /// Reads from the program once; how much came.
    pub(super) fn poll_fetch(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        queues: Queues,
        batch: &mut Batch,
    ) -> Poll<Result<usize, RelayEnd>> {
        let plaintext = match self.take_pipe(queues) {
            Some(pipe) => ready!(self.poll_splice(cx, app, pipe)),
            None => ready!(self.poll_read(cx, app, queues, batch)),
        }
        .map_err(app_error)?;
        self.bulk = plaintext >= MAX_PLAINTEXT_LEN;
        self.splicing.saw(plaintext);
        Poll::Ready(Ok(plaintext))
    }

    /// Without a pipe, everything is copied.
    fn take_pipe(&self, queues: Queues) -> Option<Pipe> {
        (self.splicing.is_splicing() && queues == Queues::Tcp)
            .then(Pipe::take)
            .and_then(Result::ok)
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        app: &TcpStream,
        mut pipe: Pipe,
    ) -> Poll<io::Result<usize>> {
        let filled = poll_io(cx, app, Interest::READABLE, || pipe.fill(app));
        if pipe.held() > 0 {
            self.pipe = Some(pipe);
        } else {
            pipe.give_back();
        }
        filled
    }

    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        queues: Queues,
        batch: &mut Batch,
    ) -> Poll<io::Result<usize>> {
        let room = if self.bulk {
            BYTES_PER_BATCH
        } else {
            MAX_PLAINTEXT_LEN
        };
        let plaintext = ready!(batch.poll_read(cx, app, queues, 0..room))?;
        if plaintext > 0 {
            batch.push(0..plaintext);
        }
        Poll::Ready(Ok(plaintext))
    }

    /// Whether the last read was a splice, and brought something.
    pub(super) fn has_spliced(&self) -> bool {
        self.pipe.is_some()
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
        if let Poll::Ready(flushed) = self.poll_flush_pipe(cx, wire) {
            flushed.map_err(wire_error)?;
        }
        let Some(data) = batch.take_only_part() else {
            return Ok(());
        };
        let Self {
            tx,
            age,
            starvation,
            ..
        } = self;
        let sent =
            match starvation.poll_send(cx, wire, tx, |tx| tx.send(wire, &[IoSlice::new(data)])) {
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
        ready!(self.poll_flush_pipe(cx, wire)).map_err(wire_error)?;
        let Self {
            tx,
            queue,
            age,
            starvation,
            ..
        } = self;
        while let Some(first) = queue.front_mut() {
            match first {
                Queued::Data { bytes, sent } => {
                    let rest = &bytes[*sent..];
                    let len =
                        ready!(starvation.poll_send(cx, wire, tx, |tx| {
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
                    ready!(starvation.poll_send(cx, wire, tx, |tx| {
                        tx.send_record(wire, *record_type, content)
                    }))
                    .map_err(wire_error)?;
                    age.sent(content.len());
                }
                Queued::Key(key) => {
                    tx.replace_key(wire, key)?;
                    age.begin_again();
                }
            }
            queue.pop_front();
        }
        *queue = VecDeque::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush_pipe(&mut self, cx: &mut Context<'_>, wire: &TcpStream) -> Poll<io::Result<()>> {
        let Self {
            tx,
            pipe,
            age,
            starvation,
            ..
        } = self;
        if let Some(pipe) = pipe {
            while pipe.held() > 0 {
                let sent =
                    ready!(starvation.poll_send(cx, wire, tx, |tx| { tx.splice(wire, pipe) }))?;
                age.spliced(sent);
            }
        }
        if let Some(pipe) = pipe.take() {
            pipe.give_back();
        }
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
            match drained.map_err(|error| io::Error::from(error.errno))? {
                Drained::Yes => {
                    self.draining = None;
                    return Pin::new(wire).poll_shutdown(cx);
                }
                Drained::NotYet => {}
                Drained::Never => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
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

/// While the kernel has no memory to send with.
///
/// It wakes who waits to send when the peer acknowledges something. TCP without TLS thinks of the case
/// that there is nothing to acknowledge (`tcp_sendmsg_locked`, at `out_err`), its TLS does not
/// (`tls_sw_sendmsg_locked`, Linux 6.12): so it is asked again now and then.
#[derive(Default)]
struct Starvation {
    pause: Option<Pin<Box<Sleep>>>,
}

impl Starvation {
    /// Sends when the wire is ready for it, or no event will say so.
    fn poll_send<R>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &TcpStream,
        tx: &mut Tx,
        mut send: impl FnMut(&mut Tx) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            let attempt = poll_io(cx, wire, Interest::WRITABLE, || send(tx));
            if attempt.is_ready() {
                self.pause = None;
                return attempt;
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
                match send(tx) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return Poll::Ready(done),
                }
            }
            let idle = tx.is_idle(wire);
            if !idle.map_err(|error| io::Error::from(error.errno))? {
                return Poll::Pending;
            }
            self.pause = Some(Box::pin(sleep(STARVED_PAUSE)));
        }
    }
}

struct Draining {
    pause: Pin<Box<Sleep>>,
    length: Duration,
}

/// As many full records as userspace seals in one go.
const BYTES_PER_BATCH: usize = 16 * MAX_PLAINTEXT_LEN;

const STARVED_PAUSE: Duration = Duration::from_millis(10);

/// The kernel holds one record at most; a peer that reads makes room within a round trip.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
