//! The receiving direction once the kernel has its key: records on the wire, plaintext out.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use kernel_tls::{Received, Rx, TrafficKey};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use super::super::batch::Batch;
use super::super::{RelayEnd, wire_error};
use super::poll_io;
use crate::content::ContentRules;
use crate::records::{DATA, Opened};

pub(super) struct KernelReceiving {
    rx: Rx,
    rules: ContentRules,
    /// The event for what has arrived may have been used up before the kernel got its key.
    is_new: bool,
    faults: Option<Faults>,
}

impl KernelReceiving {
    pub(super) fn new(wire: &TcpStream, rx: Rx, rules: ContentRules) -> io::Result<Self> {
        Ok(Self {
            rx,
            rules,
            is_new: true,
            faults: Some(Faults::watch(wire)?),
        })
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
        let Self {
            rx,
            rules,
            is_new,
            faults,
        } = self;
        let mut receive = || rx.receive(wire, batch.buffer());
        let received = match std::mem::take(is_new).then(&mut receive) {
            Some(Ok(received)) => {
                // Perhaps more: only EAGAIN would have said that there is none.
                *is_new = true;
                Ok(received)
            }
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => match poll_io(cx, wire, Interest::READABLE, &mut receive) {
                Poll::Pending => {
                    ready!(faults.as_mut().map_or(Poll::Pending, |it| it.poll(cx)));
                    *faults = None;
                    match receive() {
                        // Whoever has taken the fault ends the connection for it.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Poll::Pending;
                        }
                        received => received,
                    }
                }
                Poll::Ready(received) => received,
            },
        };
        let (content_type, len) = match received.map_err(wire_error)? {
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

/// Waits for a fault of the socket. A header that the kernel's TLS refuses is one, and on newer
/// kernels (6.12 does so, 6.1 does not) no more: nothing becomes readable by it, and a peer that then
/// sends nothing would keep the connection for ever.
struct Faults(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Faults {
    /// Tokio wakes nobody who polls a stream for `EPOLLERR` alone, and the future that waits for it
    /// borrows the stream: so it has a descriptor of its own, with no interest in what arrives.
    #[expect(
        deprecated,
        reason = "unsound for what may hand out another descriptor later; `OwnedFd` can't"
    )]
    fn watch(wire: &TcpStream) -> io::Result<Self> {
        let socket = wire.as_fd().try_clone_to_owned()?;
        let socket = AsyncFd::with_interest(socket, Interest::PRIORITY)?;
        Ok(Self(Box::pin(async move {
            let _ = socket.ready(Interest::ERROR).await;
        })))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
