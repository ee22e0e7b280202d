//! The network's side of a connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use kernel_tls::{SocketError, Ulp};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::offload::Offload;

/// A connected TCP socket towards the network, whose cryptography the kernel may take over.
///
/// Gives its descriptor to nobody: what has this type is in no eBPF map of ours, and no bytes can be
/// written to it past the TLS of its [`crate::relay()`].
#[derive(Debug)]
pub struct WireSocket {
    pub(crate) stream: TcpStream,
    pub(crate) ulp: Option<Ulp>,
    pub(crate) offload: Offload,
}

impl WireSocket {
    /// Attaches the kernel's TLS protocol, without which no key can follow. To be done before the
    /// handshake: see [`Ulp`].
    ///
    /// # Errors
    /// As [`Ulp::attach`]; the socket then is what it was, and userspace can serve it.
    pub fn attach_kernel_tls(&mut self) -> Result<(), SocketError> {
        self.ulp = Some(Ulp::attach(&self.stream)?);
        Ok(())
    }

    /// Whether the protocol is attached.
    pub fn has_kernel_tls(&self) -> bool {
        self.ulp.is_some()
    }

    /// Decides what the kernel takes over. Without the protocol it takes nothing.
    pub fn offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// What a close without an orderly end does: `Some(0)` resets.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        SockRef::from(&self.stream).set_linger(linger)
    }

    /// The address of the other end.
    ///
    /// # Errors
    /// Where there is none any more.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl From<TcpStream> for WireSocket {
    fn from(stream: TcpStream) -> Self {
        Self {
            stream,
            ulp: None,
            offload: Offload::default(),
        }
    }
}

impl AsyncRead for WireSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for WireSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
