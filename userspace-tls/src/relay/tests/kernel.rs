//! Who protects the bytes in these tests: this crate, or the kernel.
//!
//! `SEALWIRE_TEST_OFFLOAD` (`tx`, `rx`, `both` or `bulk`) runs every test of the relay with the
//! kernel's TLS on both sides; without it, or on a kernel without, they run in userspace.

use std::fs;
use std::sync::OnceLock;

use kernel_tls::Capabilities;

use super::*;
use crate::offload::{Flow, Offload, Takeover};

/// A socket whose cryptography the kernel takes over as the environment says.
pub(super) fn by_environment(stream: TcpStream) -> WireSocket {
    let (tx, rx) = match wanted().as_str() {
        "tx" => (Takeover::AtOnce, Takeover::Never),
        "rx" => (Takeover::Never, Takeover::AtOnce),
        "both" => (Takeover::AtOnce, Takeover::AtOnce),
        "bulk" => (Takeover::Bulk, Takeover::Bulk),
        _ => (Takeover::Never, Takeover::Never),
    };
    offloaded(stream, tx, rx)
}

pub(super) fn offloaded(stream: TcpStream, tx: Takeover, rx: Takeover) -> WireSocket {
    let mut wire = WireSocket::from(stream);
    if (tx, rx) != (Takeover::Never, Takeover::Never) {
        wire.attach_kernel_tls().unwrap();
        wire.offload(Offload {
            tx,
            rx,
            rekey: capabilities().rekey().is_ok(),
            splice: capabilities().splice().is_ok(),
        });
    }
    wire
}

pub(super) fn capabilities() -> &'static Capabilities {
    static CAPABILITIES: OnceLock<Capabilities> = OnceLock::new();
    CAPABILITIES.get_or_init(Capabilities::probe)
}

/// Whether the kernel opens the records of these tests.
pub(super) fn opens() -> bool {
    matches!(wanted().as_str(), "rx" | "both")
}

/// Whether it does so with a key that it can't replace.
pub(super) fn rx_is_stuck_with_its_key() -> bool {
    opens() && capabilities().rekey().is_err()
}

/// The same for sealing.
pub(super) fn tx_is_stuck_with_its_key() -> bool {
    matches!(wanted().as_str(), "tx" | "both") && capabilities().rekey().is_err()
}

/// The same for sealing once it was bulk.
pub(super) fn bulk_is_stuck_with_its_key() -> bool {
    wanted() == "bulk" && capabilities().rekey().is_err()
}

fn wanted() -> String {
    std::env::var("SEALWIRE_TEST_OFFLOAD").unwrap_or_default()
}

pub(super) async fn a_key_update_ends_the_connection() {
    for requested in [0, 1] {
        let (mut peer, mut app, relay) = Peer::new().await;
        peer.send(ContentType::Data, b"before").await;
        assert_eq!(read(&mut app, 6).await, b"before");
        let mut records = peer.seal(ContentType::Handshake, &[24, 0, 0, 1, requested]);
        peer.sealer
            .replace_key(&peer.keys.next_tx().unwrap())
            .unwrap();
        records.extend(peer.seal(ContentType::Data, b"new key"));
        peer.stream.write_all(&records).await.unwrap();
        assert_eq!(end_of(relay).await, RelayEnd::KeyUpdate);
        assert_eq!(
            peer.receive().await.0,
            Opened::FatalAlert(Alert::INTERNAL_ERROR)
        );
        assert_reset(&mut app).await;
    }
}

pub(super) async fn a_used_up_key_ends_the_connection([mut near, far]: [Secured; 2]) {
    near.session.records_per_key = 1064;
    let (mut app, inner) = tcp_pair(None).await;
    let mut peer = Peer::from(far);
    let seen = Arc::new(Seen::default());
    let events = Arc::clone(&seen);
    let relay = tokio::spawn(async move {
        let (traffic, never) = (Traffic::default(), never());
        relay(inner, near.stream, near.session, &traffic, &never, &*events).await
    });
    let mut records = 0;
    let mut has_seen_reset = false;
    let last = loop {
        // The kernel tells of a reset once: whichever call comes first.
        has_seen_reset |= app.write_all(b"x").await.is_err();
        match peer.receive().await.0 {
            Opened::Data(_) => records += 1,
            other => break other,
        }
        assert!(records >= 938 || seen.count("key-limit-near") == 0);
    };
    assert_eq!(last, Opened::FatalAlert(Alert::INTERNAL_ERROR));
    assert_eq!((records, seen.count("key-limit-near")), (1000, 1));
    assert_eq!(end_of(relay).await, RelayEnd::KeyLimit);
    if !has_seen_reset {
        assert_reset(&mut app).await;
    }
}

/// Leaves a test that the kernel's TLS is needed for, and says so aloud.
macro_rules! require_kernel_tls {
    () => {
        if let Err(why) = $crate::relay::tests::kernel::capabilities().ulp() {
            $crate::relay::tests::kernel::skip(why);
            return;
        }
    };
}
pub(super) use require_kernel_tls;

#[tokio::test]
async fn a_direction_that_shows_itself_to_be_bulk_changes_hands_in_full_flow() {
    require_kernel_tls!();
    for (tx, rx) in [
        (Takeover::Bulk, Takeover::Never),
        (Takeover::Never, Takeover::Bulk),
        (Takeover::Bulk, Takeover::Bulk),
    ] {
        let sides = kernel_pair(tx, rx).await;
        let [near, far] = [0, 1].map(|_| Arc::new(Seen::default()));
        let (client, near_app) = tcp_pair(None).await;
        let (far_app, server) = tcp_pair(None).await;
        let [first, second] = sides;
        let relays = [start(near_app, first, &near), start(far_app, second, &far)];
        exchange(client, server, 6 << 20, 1 << 18, Duration::ZERO).await;
        for relay in relays {
            assert_eq!(end_of(relay).await, RelayEnd::Orderly);
        }
        for seen in [near, far] {
            assert_eq!(seen.count("tx"), usize::from(tx == Takeover::Bulk));
            assert_eq!(seen.count("rx"), usize::from(rx == Takeover::Bulk));
        }
    }
}

#[tokio::test]
async fn a_kernel_that_had_no_memory_to_send_with_is_asked_again() {
    require_kernel_tls!();
    let [near, far] = kernel_pair(Takeover::AtOnce, Takeover::AtOnce).await;
    let seen = Arc::new(Seen::default());
    let (mut client, near_app) = tcp_pair(None).await;
    let (far_app, mut server) = tcp_pair(None).await;
    let _relays = [start(near_app, near, &seen), start(far_app, far, &seen)];
    // More than the page that a socket keeps, less than its least buffer: both are always had.
    let message = noise(4200);
    client.write_all(&message).await.unwrap();
    assert!(read(&mut server, message.len()).await == message);

    let starved = NoMemoryForTcp::take().await;
    client.write_all(&message).await.unwrap();
    let early = timeout(Duration::from_millis(500), read(&mut server, message.len())).await;
    assert!(early.is_err(), "it had memory");
    drop(starved);
    assert!(read(&mut server, message.len()).await == message);
}

/// Until it is dropped, the kernel gives sockets no memory but what they need for the least. For all
/// sockets of the machine: only where tests run one at a time.
struct NoMemoryForTcp {
    limits: String,
    /// Sockets that have more than the limit. What each CPU keeps ready counts for nothing.
    _hoard: Vec<(TcpStream, TcpStream)>,
}

impl NoMemoryForTcp {
    async fn take() -> Self {
        let mut hoard = Vec::new();
        let mebibyte = vec![0; 1 << 20];
        for _ in 0..8 {
            let (near, far) = tcp_pair(None).await;
            near.writable().await.unwrap();
            let _ = near.try_write(&mebibyte);
            hoard.push((near, far));
        }
        let limits = fs::read_to_string(TCP_MEM).unwrap();
        fs::write(TCP_MEM, "1 1 1").unwrap();
        Self {
            limits,
            _hoard: hoard,
        }
    }
}

impl Drop for NoMemoryForTcp {
    fn drop(&mut self) {
        fs::write(TCP_MEM, &self.limits).unwrap();
    }
}

const TCP_MEM: &str = "/proc/sys/net/ipv4/tcp_mem";

#[tokio::test]
async fn small_messages_stay_in_userspace() {
    require_kernel_tls!();
    let [near, far] = kernel_pair(Takeover::Bulk, Takeover::Bulk).await;
    let seen = Arc::new(Seen::default());
    let (mut client, near_app) = tcp_pair(None).await;
    let (far_app, mut server) = tcp_pair(None).await;
    let _relays = [start(near_app, near, &seen), start(far_app, far, &seen)];
    let message = noise(1000);
    for _ in 0..1500 {
        client.write_all(&message).await.unwrap();
        assert!(read(&mut server, 1000).await == message);
        server.write_all(&message).await.unwrap();
        assert!(read(&mut client, 1000).await == message);
    }
    assert_eq!(seen.count("tx") + seen.count("rx"), 0);
}

#[tokio::test]
async fn records_that_had_arrived_before_the_kernel_got_its_key_are_not_forgotten() {
    require_kernel_tls!();
    // The relay starts when everything has arrived and no further event will come.
    let [near, far] = kernel_pair(Takeover::AtOnce, Takeover::AtOnce).await;
    let mut peer = Peer::from(far);
    let mut records = peer.seal(ContentType::Data, b"one ");
    records.extend(peer.seal(ContentType::Handshake, &[4, 0, 0, 3, 1, 2, 3]));
    records.extend(peer.seal(ContentType::Data, b"two "));
    records.extend(peer.seal(ContentType::Alert, &[1, 90]));
    records.extend(peer.seal(ContentType::Data, b"three"));
    records.extend(peer.seal(ContentType::Alert, &[1, 0]));
    peer.stream.write_all(&records).await.unwrap();
    peer.stream.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (mut app, inner) = tcp_pair(None).await;
    let relay = start(inner, near, &Arc::default());
    let mut received = Vec::new();
    app.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"one two three");
    app.write_all(b"answer").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(peer.receive().await.1, b"answer");
    assert_eq!(peer.receive().await.0, Opened::CloseNotify);
    assert_eq!(end_of(relay).await, RelayEnd::Orderly);
}

#[tokio::test]
async fn a_record_begun_here_is_finished_here_before_the_kernel_gets_the_next() {
    require_kernel_tls!();
    let [near, far] = kernel_pair(Takeover::Never, Takeover::Bulk).await;
    let mut peer = Peer::from(far);
    let seen = Arc::new(Seen::default());
    let (mut app, inner) = tcp_pair(None).await;
    let _relay = start(inner, near, &seen);
    // Every write ends in the middle of a record, so that the relay always holds a part of one.
    let sent = noise(3 << 20);
    let mut wire = Vec::new();
    for piece in sent.chunks(MAX_PLAINTEXT_LEN) {
        wire.extend(peer.seal(ContentType::Data, piece));
    }
    let write = async {
        for piece in wire.chunks(100_003) {
            peer.stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let (received, ()) = tokio::join!(read(&mut app, sent.len()), write);
    assert!(received == sent);
    assert_eq!(seen.count("rx"), 1);
}

#[tokio::test]
async fn what_was_sent_last_arrives_though_the_peer_is_slow_and_buffers_are_tiny() {
    require_kernel_tls!();
    let [near, far] = kernel_pair(Takeover::AtOnce, Takeover::Never).await;
    SockRef::from(&near.stream.stream)
        .set_send_buffer_size(2048)
        .unwrap();
    SockRef::from(&far.stream.stream)
        .set_recv_buffer_size(2048)
        .unwrap();
    let (mut app, inner) = tcp_pair(None).await;
    let relay = start(inner, near, &Arc::default());
    let mut peer = Peer::from(far);
    let sent = noise(200_000);
    let write = async {
        app.write_all(&sent).await.unwrap();
        app.shutdown().await.unwrap();
    };
    let receive = async {
        let mut received = Vec::new();
        loop {
            tokio::time::sleep(Duration::from_millis(2)).await;
            match peer.receive().await {
                (Opened::CloseNotify, _) => return received,
                (_, data) => received.extend(data),
            }
        }
    };
    let ((), received) = tokio::join!(write, receive);
    assert!(received == sent);
    let mut byte = [0];
    assert_eq!(peer.stream.read(&mut byte).await.unwrap(), 0);
    peer.send(ContentType::Alert, &[1, 0]).await;
    assert_eq!(end_of(relay).await, RelayEnd::Orderly);
}

#[tokio::test]
async fn a_flood_of_records_without_data_ends_the_connection() {
    require_kernel_tls!();
    let [near, far] = kernel_pair(Takeover::AtOnce, Takeover::AtOnce).await;
    let mut peer = Peer::from(far);
    let (mut app, inner) = tcp_pair(None).await;
    let relay = start(inner, near, &Arc::default());
    let mut records = Vec::new();
    for _ in 0..40 {
        records.extend(peer.seal(ContentType::Alert, &[1, 90]));
    }
    peer.stream.write_all(&records).await.unwrap();
    assert_eq!(end_of(relay).await, RelayEnd::BadRecord(RecordError::Flood));
    assert_eq!(
        peer.receive().await.0,
        Opened::FatalAlert(Alert::UNEXPECTED_MESSAGE)
    );
    assert_reset(&mut app).await;
}

#[tokio::test]
async fn what_may_not_come_is_refused_as_it_is_in_userspace() {
    require_kernel_tls!();
    let long = [4, 1, 0, 1];
    for (content_type, content, error) in [
        (ContentType::Handshake, &[][..], RecordError::Empty),
        (ContentType::Alert, &[], RecordError::Empty),
        (ContentType::Alert, &[1, 0, 0], RecordError::Malformed),
        (
            ContentType::Handshake,
            &[24, 0, 0, 1, 2],
            RecordError::Malformed,
        ),
        (
            ContentType::Handshake,
            &[24, 0, 0, 1, 0, 4],
            RecordError::BehindKeyUpdate,
        ),
        (
            ContentType::Handshake,
            &[1, 0, 0, 0],
            RecordError::UnexpectedHandshake(1),
        ),
        (
            ContentType::Handshake,
            &long,
            RecordError::HandshakeTooLong(0x01_00_01),
        ),
    ] {
        let [near, far] = kernel_pair(Takeover::AtOnce, Takeover::AtOnce).await;
        let mut peer = Peer::from(far);
        let (_app, inner) = tcp_pair(None).await;
        let relay = start(inner, near, &Arc::default());
        peer.send(content_type, content).await;
        assert_eq!(end_of(relay).await, RelayEnd::BadRecord(error));
        assert_eq!(peer.receive().await.0, Opened::FatalAlert(error.alert()));
    }
    // A handshake message in two records, and data between them.
    let [near, far] = kernel_pair(Takeover::AtOnce, Takeover::AtOnce).await;
    let mut peer = Peer::from(far);
    let (_app, inner) = tcp_pair(None).await;
    let relay = start(inner, near, &Arc::default());
    peer.send(ContentType::Handshake, &[4, 0, 0]).await;
    peer.send(ContentType::Handshake, &[2, 7]).await;
    peer.send(ContentType::Data, b"too early").await;
    assert_eq!(
        end_of(relay).await,
        RelayEnd::BadRecord(RecordError::Interleaved)
    );
}

/// What a relay told.
#[derive(Default)]
pub(super) struct Seen(std::sync::Mutex<Vec<String>>);

impl Seen {
    pub(super) fn count(&self, event: &str) -> usize {
        let seen = self.0.lock().unwrap();
        seen.iter().filter(|it| *it == event).count()
    }

    fn add(&self, event: String) {
        self.0.lock().unwrap().push(event);
    }
}

impl Events for Seen {
    fn taken_over(&self, flow: Flow) {
        self.add(flow.to_string());
    }

    fn key_limit_near(&self) {
        self.add("key-limit-near".to_owned());
    }
}

pub(super) fn start(app: TcpStream, secured: Secured, seen: &Arc<Seen>) -> JoinHandle<RelayEnd> {
    counted(app, secured, seen, &Arc::default())
}

/// The same, and counts.
pub(super) fn counted(
    app: TcpStream,
    secured: Secured,
    seen: &Arc<Seen>,
    traffic: &Arc<Traffic>,
) -> JoinHandle<RelayEnd> {
    let (seen, traffic) = (Arc::clone(seen), Arc::clone(traffic));
    tokio::spawn(async move {
        let Secured { stream, session } = secured;
        relay(app, stream, session, &traffic, &never(), &*seen).await
    })
}

pub(super) async fn kernel_pair(tx: Takeover, rx: Takeover) -> [Secured; 2] {
    let ca = Ca::new("mesh");
    let (client, server) = (
        ca.mesh_tls(&Leaf::workload("a")),
        ca.mesh_tls(&Leaf::workload("b")),
    );
    let (near, far) = tcp_pair(None).await;
    let [mut near, mut far] = [near, far].map(|stream| offloaded(stream, tx, rx));
    let (connected, accepted) = tokio::join!(
        connect(&client, Offer::Sealwire1, &mut near),
        accept(&server, ClientAuth::Required, &mut far),
    );
    [(near, connected), (far, accepted)].map(|(stream, shaken)| Secured {
        stream,
        session: shaken.unwrap().session,
    })
}

/// As the tests of the testbed do.
pub(super) fn skip(why: &dyn fmt::Display) {
    use std::io::Write as _;
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {why}", thread.name().unwrap_or("a test"));
    let _ = writeln!(io::stderr(), "{line}");
    if let Some(path) = std::env::var_os("SEALWIRE_SKIP_LOG")
        && let Ok(mut log) = fs::File::options().create(true).append(true).open(path)
    {
        let _ = writeln!(log, "{line}");
    }
}
