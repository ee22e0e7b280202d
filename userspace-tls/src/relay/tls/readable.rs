//! When a socket whose records the kernel opens has something to read.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use super::super::ready::poll_io;

pub(super) struct Readable {
    /// The event for what has arrived may have been used up before the kernel got its key.
    is_new: bool,
    faults: Option<Faults>,
}

impl Readable {
    /// # Errors
    /// Where no descriptor is left.
    pub(super) fn new(wire: &TcpStream) -> io::Result<Self> {
        Ok(Self {
            is_new: true,
            faults: Some(Faults::watch(wire)?),
        })
    }

    /// Does `work` when there may be something to read, a fault included.
    pub(super) fn poll<R>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &TcpStream,
        mut work: impl FnMut() -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let Self { is_new, faults } = self;
        if *is_new {
            // Again and again: only EAGAIN says that there is nothing more.
            match work() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => *is_new = false,
                done => return Poll::Ready(done),
            }
        }
        if let Poll::Ready(done) = poll_io(cx, wire, Interest::READABLE, &mut work) {
            return Poll::Ready(done);
        }
        ready!(faults.as_mut().map_or(Poll::Pending, |it| it.poll(cx)));
        *faults = None;
        match work() {
            // Whoever has taken the fault ends the connection for it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            done => Poll::Ready(done),
        }
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
