//! The receiving direction once the kernel has its key: records on the wire, plaintext out.

use std::task::{Context, Poll, ready};
use std::{io, mem};

use kernel_tls::{Pipe, Received, Rx, Spliced, TrafficKey};
use tokio::net::TcpStream;

use super::super::batch::Batch;
use super::super::to_app::ToApp;
use super::super::{RelayEnd, wire_error};
use super::readable::Readable;
use crate::content::ContentRules;
use crate::offload::SpliceWatch;
use crate::records::{DATA, MAX_PLAINTEXT_LEN, Opened, RecordError};

pub(super) struct KernelReceiving {
    rx: Rx,
    rules: ContentRules,
    splicing: SpliceWatch,
    readable: Readable,
    /// What came behind data that is on its way: the kernel tells of an error once.
    failed: Option<RelayEnd>,
    /// The kernel has something that can't be spliced.
    is_other_next: bool,
}

/// What one fetch brought.
pub(super) enum Brought {
    /// What was copied; data is in the batch.
    Copied(Opened),
    /// So many bytes of data, which are on their way to the program.
    Spliced(usize),
}

impl KernelReceiving {
    pub(super) fn new(
        rx: Rx,
        rules: ContentRules,
        splicing: SpliceWatch,
        readable: Readable,
    ) -> Self {
        Self {
            rx,
            rules,
            splicing,
            readable,
            failed: None,
            is_other_next: false,
        }
    }

    pub(super) fn replace_key(
        &mut self,
        wire: &TcpStream,
        key: &TrafficKey,
    ) -> Result<(), RelayEnd> {
        Ok(self.rx.replace_key(wire, key)?)
    }

    /// Receives once, or splices several records.
    pub(super) fn poll_fetch(
        &mut self,
        cx: &mut Context<'_>,
        wire: &TcpStream,
        batch: &mut Batch,
        to_app: &mut ToApp,
    ) -> Poll<Result<Brought, RelayEnd>> {
        if let Some(end) = self.failed.take() {
            return Poll::Ready(Err(end));
        }
        // Without a pipe, everything is copied.
        if self.splicing.is_splicing()
            && !self.is_other_next
            && let Ok(pipe) = Pipe::take()
            && let Some(len) = ready!(self.poll_splice(cx, wire, pipe, to_app))?
        {
            self.splicing.saw(len);
            return Poll::Ready(Ok(Brought::Spliced(len)));
        }
        let opened = ready!(self.poll_receive(cx, wire, batch))?;
        if let Opened::Data(data) = &opened {
            self.splicing.saw(data.len());
            batch.push(data.clone());
        }
        Poll::Ready(Ok(Brought::Copied(opened)))
    }

    /// Splices what there is, up to what a pipe holds: how much, `None` where something is next that
    /// can't be spliced.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        wire: &TcpStream,
        mut pipe: Pipe,
        to_app: &mut ToApp,
    ) -> Poll<Result<Option<usize>, RelayEnd>> {
        let Self {
            rx,
            rules,
            readable,
            ..
        } = self;
        let first = readable.poll(cx, wire, || rx.splice(wire, &mut pipe));
        let judged = match first {
            Poll::Pending => {
                pipe.give_back();
                return Poll::Pending;
            }
            Poll::Ready(Ok(Spliced::Data(_))) => rules.judge_spliced().map_err(RelayEnd::from),
            Poll::Ready(Ok(nothing)) => {
                self.is_other_next = nothing == Spliced::Other;
                pipe.give_back();
                return Poll::Ready(Ok(None));
            }
            Poll::Ready(Err(error)) => Err(wire_error(error)),
        };
        judged?;
        while pipe.held() < ENOUGH {
            match rx.splice(wire, &mut pipe) {
                Ok(Spliced::Data(_)) => {}
                // A pipe with a piece in each of its places says the same as an empty socket. Only
                // a first try knows.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(nothing) => {
                    self.is_other_next = nothing == Spliced::Other;
                    break;
                }
                Err(error) => {
                    self.failed = Some(wire_error(error));
                    break;
                }
            }
        }
        let len = pipe.held();
        to_app.splice(pipe);
        Poll::Ready(Ok(Some(len)))
    }

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        wire: &TcpStream,
        batch: &mut Batch,
    ) -> Poll<Result<Opened, RelayEnd>> {
        let Self {
            rx,
            rules,
            readable,
            is_other_next,
            ..
        } = self;
        let mut receive = || rx.receive(wire, batch.buffer());
        if mem::take(is_other_next) {
            let other = receive().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => RecordError::Header.into(),
                _ => wire_error(error),
            })?;
            return Poll::Ready(judge(rules, other, batch));
        }
        let received = ready!(readable.poll(cx, wire, receive));
        Poll::Ready(judge(rules, received.map_err(wire_error)?, batch))
    }
}

fn judge(
    rules: &mut ContentRules,
    received: Received,
    batch: &mut Batch,
) -> Result<Opened, RelayEnd> {
    let (content_type, len) = match received {
        Received::Data(len) => (DATA, len),
        Received::Other { record_type, len } => (record_type, len),
        Received::End => return Err(RelayEnd::WireTruncated),
    };
    Ok(rules.judge(content_type, &batch.buffer()[..len])?)
}

/// A pipe is passed on when it has this much, in bytes: so that one more record fits.
const ENOUGH: usize = Pipe::CAPACITY - MAX_PLAINTEXT_LEN;
