//! Calls that tokio does not have.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Does `work` when the socket is ready for it. Unlike tokio's own calls it takes a short read or
/// write for nothing special: with the kernel's TLS, or where messages are redirected, it says nothing
/// about what waits behind.
pub(super) fn poll_io<R>(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    interest: Interest,
    mut work: impl FnMut() -> io::Result<R>,
) -> Poll<io::Result<R>> {
    loop {
        ready!(if interest.is_readable() {
            socket.poll_read_ready(cx)
        } else {
            socket.poll_write_ready(cx)
        })?;
        match socket.try_io(interest, &mut work) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}
