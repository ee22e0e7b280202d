use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use attestation::{AttestationResult, Digest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

use crate::connections::Place;

/// A connection whose two ends accepted each other. An end of it without a TLS closure is an error
/// of kind [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
#[derive(Debug)]
pub struct AttestedStream<S> {
    tls: TlsStream<S>,
    peer: Arc<Peer>,
    place: Option<Place>,
}

impl<S> AttestedStream<S> {
    pub(crate) fn new(tls: TlsStream<S>, peer: Peer) -> Self {
        Self {
            tls,
            peer: Arc::new(peer),
            place: None,
        }
    }

    pub(crate) fn holding(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Whom it leads to.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

/// The other end of an [`AttestedStream`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What its evidence says; nothing where none was demanded.
    pub result: Option<AttestationResult>,
    /// SHA-256 of the `SubjectPublicKeyInfo` of its key in this session.
    pub key: Digest,
    /// The manifest that it acts under. Its evidence vouches for it; without [`Peer::result`] it is
    /// a mere claim.
    pub manifest: Option<Digest>,
    /// SHA-256 of each `SubjectPublicKeyInfo` that it wants to have certified. Its evidence vouches
    /// for them; without [`Peer::result`] they are mere claims.
    pub certified_keys: Vec<Digest>,
    /// Its address, where it came through [`Acceptor`](crate::Acceptor) or
    /// [`channel`](crate::channel()).
    pub remote: Option<SocketAddr>,
}

/// The peer, as tonic hands it to services (`Request::extensions`).
#[derive(Clone, Debug)]
pub struct ConnectedPeer(pub Arc<Peer>);

impl<S> Connected for AttestedStream<S> {
    type ConnectInfo = ConnectedPeer;

    fn connect_info(&self) -> ConnectedPeer {
        ConnectedPeer(Arc::clone(&self.peer))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for AttestedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for AttestedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
