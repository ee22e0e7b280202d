//! Accepts connections of which few are open at a time, each for a while: who opens more takes the
//! places of the oldest, not the descriptors of the whole process.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

/// Accepts connections for the probes.
#[derive(Debug)]
pub(crate) struct LimitedListener {
    listener: TcpListener,
    /// One for each connection, the oldest first. Dropping it ends the connection.
    open: VecDeque<oneshot::Sender<()>>,
}

impl LimitedListener {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            open: VecDeque::new(),
        }
    }

    fn limited(&mut self, stream: TcpStream) -> Limited {
        self.open.retain(|it| !it.is_closed());
        while self.open.len() >= CONNECTIONS {
            self.open.pop_front();
        }
        let (place, made_way) = oneshot::channel();
        self.open.push_back(place);
        Limited {
            stream,
            made_way,
            end: Box::pin(sleep(LONGEST)),
        }
    }
}

impl Listener for LimitedListener {
    type Io = Limited;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Limited, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, remote)) => return (self.limited(stream), remote),
                // The connection is gone, or descriptors are; the latter lasts.
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends some time.
#[derive(Debug)]
pub(crate) struct Limited {
    stream: TcpStream,
    made_way: oneshot::Receiver<()>,
    end: Pin<Box<Sleep>>,
}

impl Limited {
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        work: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let is_over = self.end.as_mut().poll(cx).is_ready();
        if is_over || Pin::new(&mut self.made_way).poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        work(Pin::new(&mut self.stream), cx)
    }
}

impl AsyncRead for Limited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(cx, |stream, cx| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Limited {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.in_time(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx, AsyncWrite::poll_shutdown)
    }
}

/// A scraper and the probes of an orchestrator, many times over.
const CONNECTIONS: usize = 128;
const LONGEST: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);
