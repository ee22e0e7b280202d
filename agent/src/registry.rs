//! The connections that are open right now, and the last that were.
//!
//! A connection registers when it is intercepted and is open until its guard drops. Each worker has a
//! shard of its own, so that workers do not wait for each other. Of those that have ended a few are
//! kept, for who asks why; the log has all.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use attestation::identity::SpiffeId;
use serde::Serialize;
use userspace_tls::{Alpn, KeyExchange, SessionId, StopSignal, Traffic};

use crate::connection::{CloseCause, CloseReason};
use crate::local_acceleration::LocalHop;
use crate::metrics::LaneMetrics;
use crate::policy::{Direction, DnsName, Mode, RuleRef};

/// The open connections of every worker.
#[derive(Debug)]
pub(crate) struct Registry {
    shards: Box<[Shard]>,
    next_id: AtomicU64,
}

impl Registry {
    /// An empty registry for this many workers.
    pub(crate) fn new(workers: NonZeroUsize) -> Self {
        let shards = (0..workers.get()).map(|_| Shard::default()).collect();
        Self {
            shards,
            next_id: AtomicU64::new(1),
        }
    }

    /// Lists a connection of the worker until the returned guard drops.
    pub(crate) fn register(self: &Arc<Self>, worker: usize, opening: Opening) -> Registration {
        let Opening {
            lane,
            mode,
            rule,
            names,
            from,
            to,
            opened,
            traffic,
        } = opening;
        let id = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        lane.opened();
        let shard = worker % self.shards.len();
        let connection = Arc::new(Connection {
            id,
            shard: shard as u16,
            lane,
            mode,
            rule,
            names,
            from,
            to,
            opened,
            traffic,
            established: OnceLock::new(),
            course: Mutex::default(),
            counted_sent: AtomicU64::new(0),
            counted_received: AtomicU64::new(0),
            counted_spliced: AtomicU64::new(0),
            stop: StopSignal::default(),
        });
        self.shards[shard].with(|it| it.open.insert(id, Arc::clone(&connection)));
        Registration {
            registry: Arc::clone(self),
            connection,
        }
    }

    /// The open connections, oldest first.
    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        let mut connections: Vec<_> = self
            .shards
            .iter()
            .flat_map(|shard| shard.with(|it| it.open.values().cloned().collect::<Vec<_>>()))
            .collect();
        connections.sort_unstable_by_key(|connection| connection.id);
        connections
    }

    /// The connection of this number: an open one, or one of those that ended last.
    pub(crate) fn find(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        let mut shards = self.shards.iter();
        shards.find_map(|shard| shard.with(|connections| connections.find(id)))
    }

    /// Ends the connections that there is an objection to, wherever they stand: in their handshake or
    /// with bytes flowing. Each is reset on both sides by its own worker, which is woken for it. The
    /// causes of those that nobody had ended before.
    pub(crate) fn close_objected(
        &self,
        objection: impl Fn(&Connection) -> Option<CloseCause>,
    ) -> Vec<CloseCause> {
        self.connections()
            .iter()
            .filter_map(|connection| {
                let cause = objection(connection)?;
                connection.stop.stop(cause).then_some(cause)
            })
            .collect()
    }

    /// Adds the bytes of the open connections to the metrics, as far as they are not in them yet.
    /// To be called before the metrics are read.
    pub(crate) fn count_bytes(&self) {
        for connection in self.connections() {
            connection.count_bytes();
        }
    }
}

/// What is known when a connection is intercepted.
#[derive(Debug)]
pub(crate) struct Opening {
    /// Whose connection it is, and which way it goes.
    pub lane: Arc<LaneMetrics>,
    /// How its bytes will travel.
    pub mode: Mode,
    /// The rule that its destination has, whoever answers.
    pub rule: RuleRef,
    /// The names that rules know its destination by.
    pub names: Option<Arc<[DnsName]>>,
    /// Who opened it.
    pub from: SocketAddr,
    /// Where to, as the opener named it.
    pub to: SocketAddr,
    /// When it was accepted.
    pub opened: Instant,
    /// The relay's counters.
    pub traffic: Arc<Traffic>,
}

/// Keeps a connection listed. When it drops, the connection's last bytes are counted.
#[derive(Debug)]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    connection: Arc<Connection>,
}

impl Registration {
    /// The connection, for who watches it while the guard is on its way from step to step.
    pub(crate) fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }
}

impl Deref for Registration {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let shard = usize::from(self.connection.shard);
        self.registry.shards[shard].with(|it| it.end(self.connection.id));
        self.connection.count_bytes();
        self.connection.lane.closed();
    }
}

/// A connection, open or one of those that ended last.
#[derive(Debug)]
pub(crate) struct Connection {
    id: ConnectionId,
    /// That of its worker.
    shard: u16,
    lane: Arc<LaneMetrics>,
    mode: Mode,
    rule: RuleRef,
    names: Option<Arc<[DnsName]>>,
    from: SocketAddr,
    to: SocketAddr,
    opened: Instant,
    traffic: Arc<Traffic>,
    established: OnceLock<Established>,
    course: Mutex<Course>,
    counted_sent: AtomicU64,
    counted_received: AtomicU64,
    counted_spliced: AtomicU64,
    stop: StopSignal<CloseCause>,
}

impl Connection {
    /// Its number.
    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// The name of the workload whose connection it is.
    pub(crate) fn workload(&self) -> &str {
        self.lane.workload()
    }

    /// Which way it goes.
    pub(crate) fn direction(&self) -> Direction {
        self.lane.direction()
    }

    /// The rule that lets it through. Rules by workload decide when the peer has proved who it is;
    /// before, this is the one that its destination has without them.
    pub(crate) fn rule(&self) -> &RuleRef {
        let for_peer = self.established().and_then(|it| it.rule.as_deref());
        for_peer.unwrap_or(&self.rule)
    }

    /// The names that rules knew its destination by.
    pub(crate) fn names(&self) -> &[DnsName] {
        self.names.as_deref().unwrap_or_default()
    }

    /// How its bytes travel.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Who opened it.
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// Where to, as the opener named it.
    pub(crate) fn to(&self) -> SocketAddr {
        self.to
    }

    /// When it was accepted.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// Milliseconds since it was accepted.
    pub(crate) fn age_ms(&self) -> u32 {
        u32::try_from(self.opened.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    /// The relay's counters.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What ends it from outside.
    pub(crate) fn stop(&self) -> &StopSignal<CloseCause> {
        &self.stop
    }

    /// What the handshake found; `None` before its end and in clear.
    pub(crate) fn established(&self) -> Option<&Established> {
        self.established.get()
    }

    fn with_course<T>(&self, work: impl FnOnce(&mut Course) -> T) -> T {
        work(&mut self.course.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Which datapath moves the bytes; `None` before the first does.
    pub(crate) fn datapath(&self) -> Option<Datapath> {
        self.with_course(|course| course.datapath)
    }

    /// The handshake has ended well. Only the first call counts.
    pub(crate) fn set_established(&self, established: Established) {
        let _ = self.established.set(established);
    }

    /// When that was which came so many milliseconds after it was accepted, by today's clock.
    pub(crate) fn at(&self, after_ms: u32) -> SystemTime {
        let ago = self.opened.elapsed();
        let ago = ago.saturating_sub(Duration::from_millis(after_ms.into()));
        SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH)
    }

    /// How it has ended; `None` while it is open.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.with_course(|course| course.ended)
    }

    /// It has ended.
    pub(crate) fn set_ended(&self, close: CloseReason) {
        let after_ms = self.age_ms();
        self.with_course(|course| course.ended = Some(Ended { close, after_ms }));
    }

    /// Another datapath moves the bytes from now on.
    pub(crate) fn set_datapath(&self, datapath: Datapath) {
        self.lane.entered(datapath);
        self.with_course(|course| course.datapath = Some(datapath));
    }

    /// How bytes pass between program and agent, from now on.
    pub(crate) fn set_local_hop(&self, hop: LocalHop) {
        let before = self.with_course(|course| course.local_hop.replace(hop));
        if before != Some(hop) {
            self.lane.local_hop(hop);
        }
    }

    /// Its peer is on no list of the rule, and is let through all the same.
    pub(crate) fn let_through(&self) {
        self.lane.let_through();
    }

    /// Its sending key is nearly used up, and the kernel can't replace it.
    pub(crate) fn key_limit_near(&self) {
        self.lane.key_limit_near();
    }

    /// What the admin interface shows of it.
    pub(crate) fn view(&self, now: Instant) -> ConnectionView<'_> {
        let established = self.established();
        let datapath = self.datapath();
        let local_hop = self.with_course(|course| course.local_hop);
        ConnectionView {
            id: self.id(),
            workload: self.workload(),
            direction: self.direction(),
            mode: self.mode,
            rule: self.rule().clone(),
            from: self.from,
            to: self.to,
            identity: established.map(|it| it.identity.as_str()),
            peer: established
                .and_then(|it| it.peer.as_ref())
                .map(SpiffeId::as_str),
            datapath: datapath.map(|it| it.name),
            datapath_why: datapath.map(|it| it.why),
            local_hop: local_hop.map(LocalHop::name),
            local_hop_why: local_hop.map(LocalHop::why),
            key_exchange: established.map(|it| it.key_exchange.as_str()),
            cipher: established.map(|it| it.cipher),
            alpn: established.and_then(|it| it.alpn).map(Alpn::as_str),
            session: established.map(|it| it.session.to_string()),
            sent: self.traffic.sent.load(Ordering::Relaxed),
            received: self.traffic.received.load(Ordering::Relaxed),
            spliced: self.traffic.spliced.load(Ordering::Relaxed),
            age_ms: now.saturating_duration_since(self.opened).as_millis() as u64,
            state: if datapath.is_some() {
                State::Open
            } else {
                State::Handshaking
            },
        }
    }

    fn count_bytes(&self) {
        let Traffic {
            sent,
            received,
            spliced,
        } = &*self.traffic;
        let new = |total: &AtomicU64, counted| uncounted(total.load(Ordering::Relaxed), counted);
        self.lane.moved(
            new(sent, &self.counted_sent),
            new(received, &self.counted_received),
        );
        self.lane.spliced(new(spliced, &self.counted_spliced));
    }
}

/// Counts from 1 for each agent's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct ConnectionId(u64);

impl FromStr for ConnectionId {
    type Err = NoConnectionId;

    fn from_str(text: &str) -> Result<Self, NoConnectionId> {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NoConnectionId);
        }
        text.parse().map(Self).map_err(|_| NoConnectionId)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text is not the number of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no connection's number; write it as /connections does, such as 17")]
pub(crate) struct NoConnectionId;

/// What a handshake found.
#[derive(Clone, Debug)]
pub(crate) struct Established {
    /// The identity in the certificate that the workload showed.
    pub identity: SpiffeId,
    /// The peer's verified identity; `None` if it showed no certificate.
    pub peer: Option<SpiffeId>,
    /// The key exchange group.
    pub key_exchange: KeyExchange,
    /// Such as `TLS13_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The protocol that both sides named; `None` if none.
    pub alpn: Option<Alpn>,
    /// What both sides can call the connection.
    pub session: SessionId,
    /// Milliseconds from accept until the peer had proved who it is.
    pub after_ms: u32,
    /// The rule for this peer, where it is another than the one for the destination alone.
    pub rule: Option<Box<RuleRef>>,
}

/// What becomes of a connection.
#[derive(Debug, Default)]
struct Course {
    datapath: Option<Datapath>,
    local_hop: Option<LocalHop>,
    ended: Option<Ended>,
}

/// The end of a connection that was established.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// How.
    pub close: CloseReason,
    /// Milliseconds after it was accepted.
    pub after_ms: u32,
}

/// Which datapath moves the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Datapath {
    /// `in-place`, `kernel` or `userspace`.
    pub name: &'static str,
    /// Why that one.
    pub why: &'static str,
    /// What that means.
    pub means: &'static str,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Accepted, but the peers do not know each other yet.
    Handshaking,
    /// Bytes flow.
    Open,
}

/// A connection as `/connections` shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConnectionView<'a> {
    pub id: ConnectionId,
    pub workload: &'a str,
    pub direction: Direction,
    pub mode: Mode,
    pub rule: RuleRef,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub identity: Option<&'a str>,
    pub peer: Option<&'a str>,
    pub datapath: Option<&'static str>,
    pub datapath_why: Option<&'static str>,
    pub local_hop: Option<&'static str>,
    pub local_hop_why: Option<&'static str>,
    pub key_exchange: Option<&'static str>,
    pub cipher: Option<&'static str>,
    pub alpn: Option<&'static str>,
    pub session: Option<String>,
    pub sent: u64,
    pub received: u64,
    pub spliced: u64,
    pub age_ms: u64,
    pub state: State,
}

/// How much of `total` nobody has counted yet; from now on it is counted. A scrape and the end of the
/// connection may meet here, and the one with the older `total` may come second.
fn uncounted(total: u64, counted: &AtomicU64) -> u64 {
    total.saturating_sub(counted.fetch_max(total, Ordering::Relaxed))
}

/// One worker's connections. Only its worker writes; whoever lists them reads.
#[derive(Debug, Default)]
struct Shard(Mutex<Connections>);

#[derive(Debug, Default)]
struct Connections {
    open: HashMap<ConnectionId, Arc<Connection>>,
    /// Oldest first, at most [`KEPT`].
    ended: VecDeque<Arc<Connection>>,
}

/// How many connections of one worker are kept after their end: some 300 KiB.
const KEPT: usize = 512;

impl Shard {
    fn with<T>(&self, change: impl FnOnce(&mut Connections) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Connections {
    fn find(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        let ended = || self.ended.iter().find(|it| it.id == id);
        self.open.get(&id).or_else(ended).cloned()
    }

    /// It is open no longer. One that was refused is told of by its refusal.
    fn end(&mut self, id: ConnectionId) {
        let ended = self.open.remove(&id);
        if let Some(connection) = ended.filter(|it| it.ended().is_some()) {
            if self.ended.len() == KEPT {
                self.ended.pop_front();
            }
            self.ended.push_back(connection);
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use std::time::Duration;

    fn opening(metrics: &Metrics) -> Opening {
        testing::opening(metrics, "web", Direction::Egress, Mode::Mtls)
    }

    fn established() -> Established {
        Established {
            identity: "spiffe://mesh.local/ns/default/sa/web".parse().unwrap(),
            peer: Some("spiffe://mesh.local/ns/default/sa/db".parse().unwrap()),
            key_exchange: KeyExchange::X25519MlKem768,
            cipher: "TLS13_AES_128_GCM_SHA256",
            alpn: Some(Alpn::Sealwire1),
            session: SessionId([0x5a; 16]),
            after_ms: 3,
            rule: None,
        }
    }

    #[test]
    fn a_connection_is_listed_until_its_guard_drops() {
        let metrics = Metrics::new("0.1.0");
        let registry = Arc::new(Registry::new(NonZeroUsize::new(2).unwrap()));
        let first = registry.register(0, opening(&metrics));
        let second = registry.register(1, opening(&metrics));
        let third = registry.register(7, opening(&metrics));
        let ids = || {
            registry
                .connections()
                .iter()
                .map(|it| it.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(), [first.id, second.id, third.id]);
        drop(second);
        assert_eq!(ids(), [first.id, third.id]);
        drop((first, third));
        assert_eq!(ids(), []);
        let open = r#"connections_open{workload="web",direction="egress"} 0"#;
        assert!(metrics.encode().contains(open));
    }

    #[test]
    fn a_view_shows_what_is_known_so_far() {
        let registry = Arc::new(Registry::new(NonZeroUsize::MIN));
        let connection = registry.register(0, opening(&Metrics::new("0.1.0")));
        let now = connection.opened() + Duration::from_millis(250);
        let before = serde_json::to_value(connection.view(now)).unwrap();
        assert_eq!(before["state"], "handshaking");
        assert!(before["peer"].is_null() && before["datapath"].is_null());

        connection.set_established(established());
        connection.set_datapath(Datapath {
            name: "userspace",
            why: "few bytes so far",
            means: "it is young",
        });
        connection.set_local_hop(LocalHop::SkMsg);
        connection.traffic().sent.store(5, Ordering::Relaxed);
        assert_eq!(
            serde_json::to_value(connection.view(now)).unwrap(),
            serde_json::json!({
                "id": 1, "workload": "web", "direction": "egress", "mode": "mtls",
                "rule": "egress default", "from": "10.0.0.1:40000", "to": "10.0.0.2:80",
                "identity": "spiffe://mesh.local/ns/default/sa/web",
                "peer": "spiffe://mesh.local/ns/default/sa/db", "datapath": "userspace",
                "datapath_why": "few bytes so far", "local_hop": "sk-msg",
                "local_hop_why": "program-never-blocks", "key_exchange": "X25519MLKEM768",
                "cipher": "TLS13_AES_128_GCM_SHA256", "alpn": "sealwire/1",
                "session": "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a", "sent": 5,
                "received": 0, "spliced": 0, "age_ms": 250, "state": "open",
            })
        );
    }

    #[test]
    fn an_older_total_that_comes_second_counts_nothing_and_undoes_nothing() {
        let counted = AtomicU64::new(0);
        assert_eq!(uncounted(10, &counted), 10);
        assert_eq!(uncounted(7, &counted), 0);
        assert_eq!(uncounted(12, &counted), 2);
    }

    #[test]
    fn closing_reaches_those_that_meet_the_condition_once_and_no_others() {
        let metrics = Metrics::new("0.1.0");
        let registry = Arc::new(Registry::new(NonZeroUsize::new(2).unwrap()));
        let [first, second, handshaking] =
            [0, 1, 1].map(|worker| registry.register(worker, opening(&metrics)));
        first.set_established(established());
        second.set_established(Established {
            peer: Some("spiffe://mesh.local/ns/default/sa/other".parse().unwrap()),
            ..established()
        });
        let is_db = |connection: &Connection| {
            let peer = connection.established().and_then(|it| it.peer.as_ref());
            peer.is_some_and(|peer| peer.workload_name() == Some("db"))
        };
        let [withdrawn, not_allowed, ..] = CloseCause::ALL;
        let of_db = |cause| registry.close_objected(|it| is_db(it).then_some(cause));
        assert_eq!(of_db(withdrawn), [withdrawn]);
        assert_eq!(of_db(not_allowed), []);
        assert_eq!(first.stop().cause(), Some(withdrawn));
        assert_eq!(second.stop().cause(), None);
        assert_eq!(handshaking.stop().cause(), None);

        let closed = registry.close_objected(|it| {
            let is_it = it.id() == handshaking.id() && it.workload() == "web";
            is_it.then_some(not_allowed)
        });
        assert_eq!(closed, [not_allowed]);
        assert_eq!(handshaking.stop().cause(), Some(not_allowed));
    }

    #[test]
    fn every_byte_is_counted_once_whoever_counts() {
        let metrics = Metrics::new("0.1.0");
        let registry = Arc::new(Registry::new(NonZeroUsize::MIN));
        let connection = registry.register(0, opening(&metrics));
        let traffic = Arc::clone(&connection.connection.traffic);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..2_000).for_each(|_| registry.count_bytes()));
            }
            scope.spawn(|| {
                for _ in 0..20_000 {
                    traffic.sent.fetch_add(3, Ordering::Relaxed);
                    traffic.received.fetch_add(1, Ordering::Relaxed);
                }
                drop(connection);
            });
        });
        registry.count_bytes();
        let text = metrics.encode();
        for line in [
            r#"sealwire_bytes_total{workload="web",direction="egress",flow="sent"} 60000"#,
            r#"sealwire_bytes_total{workload="web",direction="egress",flow="received"} 20000"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_connection_takes_less_than_600_bytes() {
        let peer = established().peer.unwrap().as_str().len() + "mesh.local".len();
        let counts_of_shared_values = 4 * 2 * size_of::<usize>();
        let entry_at_half_load = 2 * (size_of::<(ConnectionId, Arc<Connection>)>() + 1);
        let total = size_of::<Connection>()
            + size_of::<Registration>()
            + size_of::<Traffic>()
            + peer
            + counts_of_shared_values
            + entry_at_half_load;
        assert!(total < 600, "{total}");
    }
}
