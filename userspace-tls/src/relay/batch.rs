//! The scratch memory of a worker: what one direction reads, transforms and writes in one go.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::backlog::Backlog;
use super::ready::poll_io;
use crate::queues::Queues;
use crate::records::{HEADER_LEN, MAX_PLAINTEXT_LEN, OVERHEAD};

/// Runs `work` with this worker's batch, which is empty then.
///
/// One batch a worker instead of one a connection: an idle connection holds no buffer, and a busy
/// worker's buffer stays in the CPU's cache.
pub(super) fn with_batch<R>(work: impl FnOnce(&mut Batch) -> R) -> R {
    thread_local! {
        static BATCH: RefCell<Batch> = RefCell::new(Batch::new());
    }
    BATCH.with_borrow_mut(|batch| {
        batch.filled_parts = 0;
        work(batch)
    })
}

/// A buffer and the parts of it that are to be written.
pub(super) struct Batch {
    buffer: Box<[u8]>,
    parts: [Range<usize>; MAX_PARTS],
    filled_parts: usize,
}

impl Batch {
    fn new() -> Self {
        Self {
            buffer: vec![0; BATCH_LEN].into_boxed_slice(),
            parts: std::array::from_fn(|_| 0..0),
            filled_parts: 0,
        }
    }

    pub(super) fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// The slots of the buffer, each as long as the longest record that we send.
    pub(super) fn slots(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.buffer.chunks_exact_mut(SLOT_LEN)
    }

    /// Reads once, to `at` and behind.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        queues: Queues,
        at: Range<usize>,
    ) -> Poll<io::Result<usize>> {
        let part = &mut self.buffer[at];
        if queues == Queues::TcpAndRedirected {
            let read = || (&*SockRef::from(&*source)).read(part);
            return poll_io(cx, source, Interest::READABLE, read);
        }
        let mut buffer = ReadBuf::new(part);
        ready!(Pin::new(source).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Reads once, into all slots, and leaves room for a record header in front of each.
    pub(super) fn poll_read_slots(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        queues: Queues,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(source.poll_read_ready(cx))?;
            let mut slots = self.slots();
            let mut payloads: [IoSliceMut<'_>; SLOTS] = std::array::from_fn(|_| {
                let slot = slots.next().unwrap_or_default();
                IoSliceMut::new(&mut slot[HEADER_LEN..HEADER_LEN + MAX_PLAINTEXT_LEN])
            });
            let mut taken = None;
            let result = source.try_io(Interest::READABLE, || {
                let len = (&*SockRef::from(&*source)).read_vectored(&mut payloads)?;
                taken = Some(len);
                // A short read has emptied the socket: saying so here spares the next attempt.
                let is_short = len > 0 && len < SLOTS * MAX_PLAINTEXT_LEN;
                if is_short && queues == Queues::Tcp {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            match (taken, result) {
                (Some(len), _) => return Poll::Ready(Ok(len)),
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                (None, _) => {}
            }
        }
    }

    /// Adds a part to be written. Parts come in ascending order and do not overlap.
    ///
    /// A short one is moved up to the one before it: a peer that sends small records then costs a
    /// small copy each instead of a system call for every few.
    pub(super) fn push(&mut self, part: Range<usize>) {
        if let Some(last) = self.parts[..self.filled_parts].last_mut()
            && part.len() <= SHORT_PART
        {
            let end = last.end + part.len();
            self.buffer.copy_within(part, last.end);
            last.end = end;
            return;
        }
        self.parts[self.filled_parts] = part;
        self.filled_parts += 1;
    }

    /// Takes out the one part that there is; `None` if there is none. For bytes that were read in one
    /// piece.
    pub(super) fn take_only_part(&mut self) -> Option<&[u8]> {
        let parts = &self.parts[..std::mem::take(&mut self.filled_parts)];
        parts.first().map(|part| &self.buffer[part.clone()])
    }

    /// Writes all parts once; what `sink` does not take goes to `backlog`. Leaves the batch empty.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut TcpStream,
        backlog: &mut Backlog,
    ) -> io::Result<()> {
        let parts = &self.parts[..std::mem::take(&mut self.filled_parts)];
        let written = match parts {
            [] => return Ok(()),
            [part] => Pin::new(sink).poll_write(cx, &self.buffer[part.clone()]),
            parts => {
                let slices: [IoSlice<'_>; MAX_PARTS] = std::array::from_fn(|index| {
                    let part = parts.get(index).cloned().unwrap_or_default();
                    IoSlice::new(&self.buffer[part])
                });
                Pin::new(sink).poll_write_vectored(cx, &slices[..parts.len()])
            }
        };
        let mut written = match written {
            Poll::Ready(result) => result?,
            Poll::Pending => 0,
        };
        for part in parts {
            let skipped = written.min(part.len());
            written -= skipped;
            if skipped < part.len() {
                backlog.push(&self.buffer[part.start + skipped..part.end]);
            }
        }
        Ok(())
    }
}

/// 16 records of 16 KiB: one system call then moves 256 KiB, so that its own cost no longer counts,
/// and the batch still fits the second-level cache of current CPUs.
const SLOTS: usize = 16;

/// The longest record that we send.
const SLOT_LEN: usize = MAX_PLAINTEXT_LEN + OVERHEAD;

pub(super) const BATCH_LEN: usize = SLOTS * SLOT_LEN;

const SHORT_PART: usize = 4096;

/// As many as a batch can hold: all but the first are longer than [`SHORT_PART`].
const MAX_PARTS: usize = 1 + BATCH_LEN / SHORT_PART;
