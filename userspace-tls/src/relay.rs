//! Copies a connection both ways until both directions have ended.
//!
//! Precondition: `SO_LINGER` with a time of zero is set on both sockets. Whatever drops them early, be
//! it an error, a cancelled task or the death of the process, then resets both connections. Only
//! an orderly end, with both directions closed by their senders, switches it off and closes cleanly:
//! a program never takes a cut stream for a complete one.
//!
//! Where the caller has so decided ([`crate::Offload`]), the kernel takes over the cryptography of one
//! direction or both, at once or when a direction has shown itself to be bulk.

mod backlog;
mod batch;
mod plaintext;
mod ready;
mod stop;
mod tls;
mod to_app;
mod wire;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use kernel_tls::SocketError;
use socket2::SockRef;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use crate::alert::Alert;
use crate::offload::Events;
use crate::records::RecordError;
use crate::session::Session;
use crate::wire_socket::WireSocket;
use batch::{Batch, with_batch};
use plaintext::PlaintextWire;
pub use stop::StopSignal;
use stop::StopWatch;
use tls::TlsWire;
use to_app::ToApp;
use wire::{Fetched, Tail, Wire};

/// Relays between the plaintext socket `app` and the TLS socket `wire`. Both must have `SO_LINGER`
/// set to zero. `stop` ends it before both sides have.
pub async fn relay<C: Copy, E: Events>(
    app: TcpStream,
    wire: WireSocket,
    session: Session,
    traffic: &Traffic,
    stop: &StopSignal<C>,
    events: &E,
) -> RelayEnd {
    let WireSocket {
        stream: wire,
        ulp,
        offload,
    } = wire;
    match TlsWire::new(session, ulp, offload, events) {
        Ok(format) => Relay::new(app, wire, format, traffic).run(stop).await,
        Err(error) => RelayEnd::BadRecord(error),
    }
}

/// The same without TLS.
pub async fn relay_plaintext<C: Copy>(
    app: TcpStream,
    wire: WireSocket,
    traffic: &Traffic,
    stop: &StopSignal<C>,
) -> RelayEnd {
    Relay::new(app, wire.stream, PlaintextWire::default(), traffic)
        .run(stop)
        .await
}

/// Plaintext bytes relayed so far; read with relaxed ordering while the relay runs.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes from `app` to `wire`.
    pub sent: AtomicU64,
    /// Bytes from `wire` to `app`.
    pub received: AtomicU64,
    /// Of both, bytes that were spliced: userspace never had them.
    pub spliced: AtomicU64,
}

impl Traffic {
    fn count(&self, direction: &AtomicU64, fetched: &Fetched) {
        let bytes = fetched.plaintext as u64;
        direction.fetch_add(bytes, Ordering::Relaxed);
        if fetched.spliced {
            self.spliced.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// How a relayed connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEnd {
    /// Both sides ended their direction in order.
    Orderly,
    /// The program reset its connection.
    AppReset,
    /// The peer reset its connection.
    WireReset,
    /// The peer's stream ended without `close_notify`: it may have been cut.
    WireTruncated,
    /// The peer sent a fatal alert.
    PeerAlert(Alert),
    /// The peer sent a record that cannot be accepted.
    BadRecord(RecordError),
    /// The peer has replaced its key, and the kernel, which has the old one, can't follow (before
    /// Linux 6.14). The peer was told by the alert `internal_error`.
    KeyUpdate,
    /// The sending key has protected as much as it may, and the kernel can't replace it (before
    /// Linux 6.14). The peer was told by the alert `internal_error`, the program by a reset.
    KeyLimit,
    /// The kernel's TLS refused a key or an answer. Nobody can be told: nothing may be written any
    /// more.
    KernelTls(SocketError),
    /// The program's socket failed otherwise.
    AppError(io::ErrorKind),
    /// The peer's socket failed otherwise.
    WireError(io::ErrorKind),
    /// The [`StopSignal`] was given, which has the cause. The peer was told by the alert `access_denied` where one could
    /// be sent; both connections are reset.
    Stopped,
}

impl RelayEnd {
    /// The code as logs, metrics and the documentation spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Orderly => "orderly",
            Self::AppReset => "app-reset",
            Self::WireReset => "wire-reset",
            Self::WireTruncated => "wire-truncated",
            Self::PeerAlert(_) => "peer-alert",
            Self::BadRecord(_) => "bad-record",
            Self::KeyUpdate => "key-update",
            Self::KeyLimit => "key-limit",
            Self::KernelTls(_) => "kernel-tls",
            Self::AppError(_) => "app-error",
            Self::WireError(_) => "wire-error",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for RelayEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::PeerAlert(alert) => write!(f, ": {alert}"),
            Self::BadRecord(error) => write!(f, ": {error}"),
            Self::KernelTls(error) => write!(f, ": {error}"),
            Self::AppError(kind) | Self::WireError(kind) => write!(f, ": {kind}"),
            Self::Orderly
            | Self::AppReset
            | Self::WireReset
            | Self::WireTruncated
            | Self::KeyUpdate
            | Self::KeyLimit
            | Self::Stopped => Ok(()),
        }
    }
}

/// One connection.
struct Relay<'a, W> {
    app: TcpStream,
    wire: TcpStream,
    format: W,
    outbound: State,
    inbound: State,
    to_app: ToApp,
    traffic: &'a Traffic,
}

impl<'a, W: Wire> Relay<'a, W> {
    fn new(app: TcpStream, wire: TcpStream, format: W, traffic: &'a Traffic) -> Self {
        Self {
            app,
            wire,
            format,
            outbound: State::Open,
            inbound: State::Open,
            to_app: ToApp::default(),
            traffic,
        }
    }

    async fn run<C: Copy>(mut self, stop: &StopSignal<C>) -> RelayEnd {
        let mut stop = StopWatch::new(stop);
        let end = poll_fn(|cx| {
            if stop.poll(cx).is_ready() {
                return Poll::Ready(self.give_up(cx, RelayEnd::Stopped));
            }
            with_batch(|batch| self.poll(cx, batch))
        })
        .await;
        if end == RelayEnd::Orderly {
            for socket in [&self.app, &self.wire] {
                // Failing, it leaves the reset in place: the safe side.
                let _ = SockRef::from(socket).set_linger(None);
            }
        }
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<RelayEnd> {
        let mut moved = 0;
        while moved < BYTES_PER_POLL {
            // Inbound first: an alert says more than the failing write that follows from it.
            let inbound = self.poll_inbound(cx, batch);
            if let Poll::Ready(Err(end)) = inbound {
                return Poll::Ready(self.give_up(cx, end));
            }
            let outbound = self.poll_outbound(cx, batch);
            if let Poll::Ready(Err(end)) = outbound {
                return Poll::Ready(self.last_word(cx, batch, end));
            }
            if (self.inbound, self.outbound) == (State::Done, State::Done) {
                return Poll::Ready(RelayEnd::Orderly);
            }
            match (inbound, outbound) {
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
                (inbound, outbound) => {
                    moved += (bytes(inbound) + bytes(outbound)).max(BYTES_PER_ROUND);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_outbound(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Poll<Result<usize, RelayEnd>> {
        let Self {
            app,
            wire,
            format,
            outbound,
            traffic,
            ..
        } = self;
        if *outbound == State::Done {
            return Poll::Pending;
        }
        ready!(format.poll_flush(cx, wire))?;
        if *outbound == State::Closing {
            ready!(format.poll_shutdown(cx, wire)).map_err(wire_error)?;
            *outbound = State::Done;
            return Poll::Pending;
        }
        let fetched = ready!(format.poll_fetch_outbound(cx, app, wire, batch))?;
        traffic.count(&traffic.sent, &fetched);
        let Fetched {
            plaintext, tail, ..
        } = fetched;
        format.write(cx, wire, batch)?;
        if let Tail::Finished = tail {
            format.finish()?;
        }
        outbound.follow(tail)?;
        Poll::Ready(Ok(plaintext))
    }

    fn poll_inbound(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Poll<Result<usize, RelayEnd>> {
        let Self {
            app,
            wire,
            format,
            inbound,
            to_app,
            traffic,
            ..
        } = self;
        if *inbound == State::Done {
            return Poll::Pending;
        }
        ready!(to_app.poll_flush(cx, app)).map_err(app_error)?;
        if *inbound == State::Closing {
            ready!(Pin::new(app).poll_shutdown(cx)).map_err(app_error)?;
            *inbound = State::Done;
            return Poll::Pending;
        }
        let fetched = ready!(format.poll_fetch_inbound(cx, wire, batch, to_app))?;
        traffic.count(&traffic.received, &fetched);
        let Fetched {
            plaintext, tail, ..
        } = fetched;
        to_app.write(cx, app, batch).map_err(app_error)?;
        inbound.follow(tail)?;
        Poll::Ready(Ok(plaintext))
    }

    /// A peer that refuses us sends an alert and resets: the alert may still lie unread.
    fn last_word(&mut self, cx: &mut Context<'_>, batch: &mut Batch, end: RelayEnd) -> RelayEnd {
        if let RelayEnd::WireReset | RelayEnd::WireError(_) = end
            && let Poll::Ready(Err(RelayEnd::PeerAlert(alert))) = self.poll_inbound(cx, batch)
        {
            return RelayEnd::PeerAlert(alert);
        }
        self.give_up(cx, end)
    }

    fn give_up(&mut self, cx: &mut Context<'_>, end: RelayEnd) -> RelayEnd {
        self.format.give_up(cx, &mut self.wire, end);
        end
    }
}

/// One direction's way from reading to closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended; the sink is to be told once it has everything.
    Closing,
    Done,
}

impl State {
    fn follow(&mut self, tail: Tail) -> Result<(), RelayEnd> {
        match tail {
            Tail::Open => {}
            Tail::Finished => *self = Self::Closing,
            Tail::Failed(end) => return Err(end),
        }
        Ok(())
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err wants"
)]
fn app_error(error: io::Error) -> RelayEnd {
    if is_reset(&error) {
        RelayEnd::AppReset
    } else {
        RelayEnd::AppError(error.kind())
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err wants"
)]
fn wire_error(error: io::Error) -> RelayEnd {
    if is_reset(&error) {
        RelayEnd::WireReset
    } else if let Some(wrong) = kernels_verdict(&error) {
        RelayEnd::BadRecord(wrong)
    } else {
        RelayEnd::WireError(error.kind())
    }
}

/// What the kernel's TLS finds wrong with a record of the peer. It leaves it on the socket, where a
/// write may come upon it first; TCP has none of these of its own once it is connected.
fn kernels_verdict(error: &io::Error) -> Option<RecordError> {
    match error.raw_os_error() {
        Some(libc::EBADMSG) => Some(RecordError::Undecryptable),
        Some(libc::EMSGSIZE) => Some(RecordError::TooLong),
        Some(libc::EINVAL) => Some(RecordError::Header),
        _ => None,
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

fn bytes(progress: Poll<Result<usize, RelayEnd>>) -> usize {
    match progress {
        Poll::Ready(Ok(bytes)) => bytes,
        Poll::Ready(Err(_)) | Poll::Pending => 0,
    }
}

/// What one connection may move before the worker's others get their turn: two batches, some 150
/// microseconds of encryption.
const BYTES_PER_POLL: usize = 512 * 1024;

/// What a round is taken to cost at least, in the same measure: its system calls.
const BYTES_PER_ROUND: usize = 16 * 1024;

#[cfg(test)]
mod tests;
