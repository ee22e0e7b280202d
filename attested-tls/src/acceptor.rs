use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{self, AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::admission::{Admission, AdmissionLimits, Ticket};
use crate::appraisal::Offer;
use crate::attested_tls::AttestedTls;
use crate::connections::{Connections, Place};
use crate::counters::Counters;
use crate::error::AttestedTlsError;
use crate::stream::AttestedStream;

/// How much an [`Acceptor`] takes on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Handshakes in progress; each may take up to about a megabyte.
    pub handshakes: usize,
    /// Handshakes in progress of one source: an IPv4 address or an IPv6 network of 64 bits.
    pub handshakes_per_source: usize,
    /// Connections that wait for their handshake; each takes a file descriptor.
    pub waiting: usize,
    /// How long a handshake may last while others wait for it to end.
    pub patience: Duration,
    /// Connections that are open, those in their handshake among them.
    pub connections: usize,
    /// Connections that are open from one source.
    pub connections_per_source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 256,
            handshakes_per_source: 128,
            waiting: 1024,
            patience: Duration::from_secs(2),
            connections: 16 * 1024,
            connections_per_source: 12 * 1024,
        }
    }
}

/// Accepts TCP connections and makes attested ones of them, many at once, none in the way of
/// another.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    settings: Settings,
}

impl Acceptor {
    /// Will accept from `listener`. `offer` is asked for each connection anew, and must not block.
    pub fn new(
        listener: TcpListener,
        tls: Arc<AttestedTls>,
        offer: impl Fn() -> Offer + Send + Sync + 'static,
        limits: Limits,
    ) -> Self {
        Self {
            listener,
            settings: Settings {
                tls,
                offer: Box::new(offer),
                on_failure: Arc::new(|_, _| {}),
                limits,
                counters: Arc::default(),
            },
        }
    }

    /// Will tell `observer` of each connection that came to nothing after it was let in, and why. It
    /// must not block.
    #[must_use]
    pub fn on_failure(
        mut self,
        observer: impl Fn(SocketAddr, &AttestedTlsError) + Send + Sync + 'static,
    ) -> Self {
        self.settings.on_failure = Arc::new(observer);
        self
    }

    /// What it sees, to be looked at whenever.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.settings.counters)
    }

    /// The attested connections, for `tonic`'s `serve_with_incoming`. Ends only with the runtime.
    /// Must be called within a runtime.
    pub fn incoming(self) -> Incoming {
        let Self { listener, settings } = self;
        Incoming::from_listener(listener, settings)
    }
}

/// What is the same for all connections.
struct Settings {
    tls: Arc<AttestedTls>,
    offer: Box<dyn Fn() -> Offer + Send + Sync>,
    on_failure: OnFailure,
    limits: Limits,
    counters: Arc<Counters>,
}

type OnFailure = Arc<dyn Fn(SocketAddr, &AttestedTlsError) + Send + Sync>;

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("limits", &self.limits)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// The attested connections of an [`Acceptor`]. When it is dropped, accepting ends.
#[derive(Debug)]
pub struct Incoming {
    attested: mpsc::Receiver<AttestedStream<TcpStream>>,
    accepting: AbortHandle,
}

impl Incoming {
    fn from_listener(listener: impl Listener, settings: Settings) -> Self {
        let (ready, attested) = mpsc::channel(READY_BUFFER);
        let accepting = task::spawn(Accepting::new(listener, settings, ready).run());
        Self {
            attested,
            accepting: accepting.abort_handle(),
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<AttestedStream<TcpStream>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.attested.poll_recv(cx).map(|it| it.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Where connections come from; replaceable in tests, since the errors of accept(2) that matter are
/// hard to bring about.
trait Listener: Send + Sync + 'static {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Listener for TcpListener {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }
}

/// The task behind [`Incoming`].
struct Accepting<L> {
    listener: L,
    settings: Settings,
    ready: mpsc::Sender<AttestedStream<TcpStream>>,
    admission: Admission<(TcpStream, SocketAddr)>,
    connections: Arc<Connections>,
    handshakes: JoinSet<()>,
    running: HashMap<task::Id, Running>,
    /// Out of file descriptors or memory: until when not to accept.
    paused_until: Option<Instant>,
}

struct Running {
    ticket: Ticket,
    remote: SocketAddr,
    abort: AbortHandle,
}

impl<L: Listener> Accepting<L> {
    fn new(
        listener: L,
        settings: Settings,
        ready: mpsc::Sender<AttestedStream<TcpStream>>,
    ) -> Self {
        let Limits {
            handshakes,
            handshakes_per_source,
            waiting,
            patience,
            connections,
            connections_per_source,
        } = settings.limits;
        Self {
            admission: Admission::new(AdmissionLimits {
                handshakes,
                handshakes_per_source,
                waiting,
                patience,
                longest_wait: settings.tls.time_allowed(),
            }),
            connections: Connections::new(connections, connections_per_source),
            listener,
            settings,
            ready,
            handshakes: JoinSet::new(),
            running: HashMap::new(),
            paused_until: None,
        }
    }

    async fn run(mut self) {
        loop {
            self.start_handshakes();
            let alarm = self.admission.next_alarm();
            tokio::select! {
                accepted = self.listener.accept(), if self.paused_until.is_none() => {
                    self.accepted(accepted);
                }
                Some(done) = self.handshakes.join_next_with_id() => {
                    self.handshake_done(&done);
                }
                () = self.connections.closed() => {}
                () = until(alarm), if alarm.is_some() => self.make_way(),
                () = until(self.paused_until), if self.paused_until.is_some() => {
                    self.paused_until = None;
                }
            }
        }
    }

    fn accepted(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((stream, remote)) => {
                self.settings.counters.accepted();
                let source = remote.ip().into();
                let connection = (stream, remote);
                if let Some((_, remote)) = self.admission.arrive(source, connection, Instant::now())
                {
                    self.drop_waiting(remote);
                }
            }
            // The connection itself failed before it was taken: the next one may be well.
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections, trying again soon");
                self.paused_until = Some(Instant::now() + PAUSE);
            }
        }
    }

    fn start_handshakes(&mut self) {
        loop {
            let room = |source| self.connections.has_room(source);
            let Some((ticket, source, (stream, remote))) =
                self.admission.start(Instant::now(), room)
            else {
                break;
            };
            let place = self.connections.take(source);
            let abort = self.handshakes.spawn(handshake(
                stream,
                remote,
                place,
                (self.settings.offer)(),
                Arc::clone(&self.settings.tls),
                Outcome {
                    ready: self.ready.clone(),
                    counters: Arc::clone(&self.settings.counters),
                    on_failure: Arc::clone(&self.settings.on_failure),
                },
            ));
            let running = Running {
                ticket,
                remote,
                abort,
            };
            self.running.insert(running.abort.id(), running);
        }
        self.settings.counters.set_load(
            self.admission.running(),
            self.admission.waiting(),
            self.connections.total(),
        );
    }

    fn handshake_done(&mut self, done: &Result<(task::Id, ()), JoinError>) {
        let id = match done {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        if let Some(Running { ticket, .. }) = self.running.remove(&id) {
            self.admission.finish(ticket);
        }
    }

    fn make_way(&mut self) {
        let now = Instant::now();
        while let Some((_, remote)) = self.admission.expire(now) {
            self.drop_waiting(remote);
        }
        if let Some(ticket) = self.admission.evict(now)
            && let Some(running) = self.running.values().find(|it| it.ticket == ticket)
        {
            running.abort.abort();
            let error = AttestedTlsError::Evicted;
            self.settings.counters.failed(&error);
            (self.settings.on_failure)(running.remote, &error);
        }
    }

    fn drop_waiting(&self, remote: SocketAddr) {
        self.settings.counters.dropped();
        tracing::debug!(%remote, "dropped: too many connections wait for their handshake");
    }
}

/// What becomes of a handshake.
struct Outcome {
    ready: mpsc::Sender<AttestedStream<TcpStream>>,
    counters: Arc<Counters>,
    on_failure: OnFailure,
}

async fn handshake(
    stream: TcpStream,
    remote: SocketAddr,
    place: Place,
    offer: Offer,
    tls: Arc<AttestedTls>,
    outcome: Outcome,
) {
    // Small messages go back and forth. A failure costs time only.
    let _ = stream.set_nodelay(true);
    match tls.accept_from(stream, offer, Some(remote)).await {
        Ok(stream) => {
            outcome.counters.attested();
            // It fails when nobody serves any more.
            let _ = outcome.ready.send(stream.holding(place)).await;
        }
        Err(error) => {
            tracing::debug!(%remote, %error, "no attested connection");
            outcome.counters.failed(&error);
            (outcome.on_failure)(remote, &error);
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Errors of accept(2) that are pending errors of a connection (its manual page, "Error handling").
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
    )
}

/// Connections that are attested and not yet served.
const READY_BUFFER: usize = 16;
/// Long enough not to spin, short enough not to be noticed.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
