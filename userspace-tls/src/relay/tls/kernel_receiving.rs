//! The receiving direction once the kernel has its key: records on the wire, plaintext out.

use std::io;
use std::task::{Context, Poll, ready};

use kernel_tls::{Received, Rx, TrafficKey};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::super::batch::Batch;
use super::super::{RelayEnd, wire_error};
use super::poll_io;
use crate::content::ContentRules;
use crate::records::{DATA, Opened, RecordError};

pub(super) struct KernelReceiving {
    rx: Rx,
    rules: ContentRules,
    /// The event for what has arrived may have been used up before the kernel got its key.
    is_new: bool,
}

impl KernelReceiving {
    pub(super) fn new(rx: Rx, rules: ContentRules) -> Self {
        Self {
            rx,
            rules,
            is_new: true,
        }
    }

    pub(super) fn replace_key(
        &mut self,
        wire: &TcpStream,
        key: &TrafficKey,
    ) -> Result<(), RelayEnd> {
        Ok(self.rx.replace_key(wire, key)?)
    }

    /// Receives once. Data is put into `batch` as well.
    pub(super) fn poll_fetch(
        &mut self,
        cx: &mut Context<'_>,
        wire: &TcpStream,
        batch: &mut Batch,
    ) -> Poll<Result<Opened, RelayEnd>> {
        let Self { rx, rules, is_new } = self;
        let mut receive = || rx.receive(wire, batch.buffer());
        let received = match std::mem::take(is_new).then(&mut receive) {
            Some(Ok(received)) => {
                // Perhaps more: only EAGAIN would have said that there is none.
                *is_new = true;
                Ok(received)
            }
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => ready!(poll_io(cx, wire, Interest::READABLE, receive)),
        };
        let (content_type, len) = match received.map_err(receive_error)? {
            Received::Data(len) => (DATA, len),
            Received::Other { record_type, len } => (record_type, len),
            Received::End => return Poll::Ready(Err(RelayEnd::WireTruncated)),
        };
        let opened = rules.judge(content_type, &batch.buffer()[..len])?;
        if let Opened::Data(data) = &opened {
            batch.push(data.clone());
        }
        Poll::Ready(Ok(opened))
    }
}

/// The kernel has few words for what a peer does wrong.
fn receive_error(error: io::Error) -> RelayEnd {
    match error.raw_os_error() {
        Some(libc::EBADMSG) => RecordError::Undecryptable.into(),
        Some(libc::EMSGSIZE) => RecordError::TooLong.into(),
        Some(libc::EINVAL) => RecordError::Header.into(),
        _ => wire_error(error),
    }
}
