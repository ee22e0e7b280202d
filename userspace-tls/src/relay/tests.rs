use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use kernel::by_environment;

use super::*;
use crate::handshake::{accept, connect};
use crate::records::{
    ContentType, HEADER_LEN, MAX_CIPHERTEXT_LEN, MAX_PLAINTEXT_LEN, OVERHEAD, Opened, Opener, Role,
    Sealer,
};
use crate::session::KeySchedule;
use crate::testing::{Ca, Leaf};
use crate::{ClientAuth, Offer};

mod gnutls;
mod hostile;
mod kernel;
mod openssl;
mod program;
mod splice;
mod stopping;
mod talk;
mod truncated;

#[tokio::test]
async fn every_byte_arrives_in_order_both_ways() {
    let len = 64 << 20;
    let Path {
        client,
        server,
        near,
        far,
        traffic,
    } = Path::new(None).await;
    exchange(client, server, len, 1 << 18, Duration::ZERO).await;
    assert_eq!(end_of(near).await, RelayEnd::Orderly);
    assert_eq!(end_of(far).await, RelayEnd::Orderly);
    assert_eq!(traffic.sent.load(Ordering::Relaxed), len as u64);
    assert_eq!(traffic.received.load(Ordering::Relaxed), len as u64);
}

#[tokio::test]
async fn every_byte_arrives_through_tiny_socket_buffers_to_a_slow_reader() {
    let Path {
        client,
        server,
        near,
        far,
        ..
    } = Path::new(Some(4096)).await;
    exchange(client, server, 1 << 17, 5000, Duration::from_millis(1)).await;
    assert_eq!(end_of(near).await, RelayEnd::Orderly);
    assert_eq!(end_of(far).await, RelayEnd::Orderly);
}

#[tokio::test]
async fn the_server_may_speak_first() {
    let Path {
        mut client,
        mut server,
        ..
    } = Path::new(None).await;
    server.write_all(b"220 ready").await.unwrap();
    assert_eq!(read(&mut client, 9).await, b"220 ready");
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    for client_first in [true, false] {
        let Path {
            client,
            server,
            near,
            far,
            ..
        } = Path::new(None).await;
        let (mut first, mut second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        let mut question = Vec::new();
        second.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        second.write_all(b"answer").await.unwrap();
        second.shutdown().await.unwrap();
        let mut answer = Vec::new();
        first.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        assert_eq!(end_of(near).await, RelayEnd::Orderly);
        assert_eq!(end_of(far).await, RelayEnd::Orderly);
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_both_ways() {
    for client_first in [true, false] {
        let Path {
            client,
            server,
            near,
            far,
            ..
        } = Path::new(None).await;
        let (first, mut second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        drop(first);
        assert_reset(&mut second).await;
        let (by_app, by_wire) = if client_first {
            (near, far)
        } else {
            (far, near)
        };
        assert_eq!(end_of(by_app).await, RelayEnd::AppReset);
        assert_eq!(end_of(by_wire).await, RelayEnd::WireReset);
    }
}

#[tokio::test]
async fn a_relay_that_is_dropped_resets_both_sides() {
    let Path {
        mut client,
        mut server,
        near,
        far,
        ..
    } = Path::new(None).await;
    client.write_all(b"x").await.unwrap();
    read(&mut server, 1).await;
    near.abort();
    assert_reset(&mut client).await;
    assert_reset(&mut server).await;
    assert_eq!(end_of(far).await, RelayEnd::WireReset);
}

#[tokio::test]
async fn a_stream_cut_without_close_notify_never_ends_cleanly_at_the_program() {
    let (mut peer, mut app, relay) = Peer::new().await;
    peer.send(ContentType::Data, b"half").await;
    assert_eq!(read(&mut app, 4).await, b"half");
    peer.stream.shutdown().await.unwrap();
    assert_reset(&mut app).await;
    assert_eq!(end_of(relay).await, RelayEnd::WireTruncated);
}

#[tokio::test]
async fn a_forged_record_resets_the_program_and_tells_the_peer() {
    let (mut peer, mut app, relay) = Peer::new().await;
    let mut record = peer.seal(ContentType::Data, b"forged");
    record[HEADER_LEN] ^= 1;
    peer.stream.write_all(&record).await.unwrap();
    assert_reset(&mut app).await;
    assert_eq!(
        end_of(relay).await,
        RelayEnd::BadRecord(RecordError::Undecryptable)
    );
    assert_eq!(
        peer.receive().await.0,
        Opened::FatalAlert(Alert::BAD_RECORD_MAC)
    );
}

#[tokio::test]
async fn data_before_a_forged_record_is_delivered() {
    let (mut peer, mut app, relay) = Peer::new().await;
    let mut records = peer.seal(ContentType::Data, b"good");
    records.extend(peer.seal(ContentType::Data, b"forged"));
    *records.last_mut().unwrap() ^= 1;
    peer.stream.write_all(&records).await.unwrap();
    assert_eq!(
        end_of(relay).await,
        RelayEnd::BadRecord(RecordError::Undecryptable)
    );
    assert_eq!(read(&mut app, 4).await, b"good");
}

#[tokio::test]
async fn a_fatal_alert_is_reported_by_name() {
    let (mut peer, mut app, relay) = Peer::new().await;
    peer.send(ContentType::Alert, &[2, 48]).await;
    assert_reset(&mut app).await;
    let end = end_of(relay).await;
    assert_eq!(end, RelayEnd::PeerAlert(Alert(48)));
    assert_eq!(end.to_string(), "peer-alert: unknown_ca");
}

#[tokio::test]
async fn an_alert_before_a_reset_is_not_lost_to_a_failing_write() {
    let (mut peer, mut app, relay) = Peer::new().await;
    // Both happen before the relay runs again.
    app.write_all(&[0; 1000]).await.unwrap();
    peer.send(ContentType::Alert, &[2, 116]).await;
    drop(peer);
    assert_eq!(end_of(relay).await, RelayEnd::PeerAlert(Alert(116)));
}

#[tokio::test]
async fn a_client_learns_after_its_handshake_that_it_was_refused() {
    let ca = Ca::new("mesh");
    let server = ca.mesh_tls(&Leaf::workload("b"));
    let client = ca.mesh_tls_of(&Ca::new("foreign").issue(&Leaf::workload("x")));
    let (near, mut far) = tcp_pair(None).await;
    let mut near = by_environment(near);
    let refused = async {
        accept(&server, ClientAuth::Required, &mut far)
            .await
            .unwrap_err();
        drop(far);
    };
    let (connected, ()) = tokio::join!(connect(&client, Offer::Sealwire1, &mut near), refused);
    let (_app, inner) = tcp_pair(None).await;
    let end = relay(
        inner,
        near,
        connected.unwrap().session,
        &Traffic::default(),
        &never(),
        &(),
    )
    .await;
    assert_eq!(end, RelayEnd::PeerAlert(Alert(48)));
}

#[tokio::test]
async fn a_peers_key_update_is_followed_and_answered_if_asked_for() {
    if kernel::rx_is_stuck_with_its_key() {
        return kernel::a_key_update_ends_the_connection().await;
    }
    let is_answered = !kernel::tx_is_stuck_with_its_key();
    let (mut peer, mut app, relay) = Peer::new().await;
    for requested in [0, 1] {
        peer.send(ContentType::Handshake, &[24, 0, 0, 1, requested])
            .await;
        let next = peer.keys.next_tx().unwrap();
        peer.sealer.replace_key(&next).unwrap();
        peer.send(ContentType::Data, b"new key").await;
        assert_eq!(read(&mut app, 7).await, b"new key");
        if requested == 1 && is_answered {
            assert_eq!(
                peer.receive().await.0,
                Opened::KeyUpdate { requested: false }
            );
            peer.opener
                .replace_key(&peer.keys.next_rx().unwrap())
                .unwrap();
        }
        app.write_all(b"back").await.unwrap();
        assert_eq!(peer.receive().await.1, b"back");
    }
    drop(relay);
}

#[tokio::test]
async fn requests_for_key_updates_do_not_pile_up_answers() {
    if kernel::rx_is_stuck_with_its_key() {
        return kernel::a_key_update_ends_the_connection().await;
    }
    let (mut peer, mut app, relay) = Peer::new().await;
    // The peer does not read: what the program sends fills the sockets and blocks that direction.
    let block = vec![0; 1 << 20];
    while timeout(Duration::from_millis(200), app.write_all(&block))
        .await
        .is_ok()
    {}
    for _ in 0..1000 {
        let mut records = peer.seal(ContentType::Handshake, &[24, 0, 0, 1, 1]);
        let next = peer.keys.next_tx().unwrap();
        peer.sealer.replace_key(&next).unwrap();
        records.extend(peer.seal(ContentType::Data, b"."));
        peer.stream.write_all(&records).await.unwrap();
        assert_eq!(read(&mut app, 1).await, b".");
    }
    let mut updates = 0_u32;
    while let Ok((opened, _)) = timeout(Duration::from_millis(500), peer.receive()).await {
        if opened == (Opened::KeyUpdate { requested: false }) {
            peer.opener
                .replace_key(&peer.keys.next_rx().unwrap())
                .unwrap();
            updates += 1;
        }
    }
    // What the program has sent was bulk.
    let is_stuck = kernel::tx_is_stuck_with_its_key() || kernel::bulk_is_stuck_with_its_key();
    assert_eq!(updates, u32::from(!is_stuck));
    drop(relay);
}

#[tokio::test]
async fn the_sending_key_is_replaced_before_its_limit() {
    if kernel::tx_is_stuck_with_its_key() {
        return kernel::a_used_up_key_ends_the_connection(wire_pair(&Ca::new("mesh")).await).await;
    }
    let ca = Ca::new("mesh");
    let [mut near, far] = wire_pair(&ca).await;
    near.session.records_per_key = 100;
    let (mut app, inner) = tcp_pair(None).await;
    let relay = tokio::spawn(async move {
        relay(
            inner,
            near.stream,
            near.session,
            &Traffic::default(),
            &never(),
            &(),
        )
        .await
    });
    let mut peer = Peer::from(far);
    let mut updates = 0;
    let mut records_under_key = 0;
    for _ in 0..400 {
        app.write_all(b"x").await.unwrap();
        loop {
            records_under_key += 1;
            assert!(records_under_key <= 100);
            match peer.receive().await.0 {
                Opened::KeyUpdate { requested: false } => {
                    peer.opener
                        .replace_key(&peer.keys.next_rx().unwrap())
                        .unwrap();
                    (updates, records_under_key) = (updates + 1, 0);
                }
                opened => break assert!(matches!(opened, Opened::Data(_)), "{opened:?}"),
            }
        }
    }
    assert!(updates >= 4, "{updates}");
    drop(relay);
}

#[tokio::test]
async fn records_of_one_byte_and_padded_records_arrive() {
    let (mut peer, mut app, relay) = Peer::new().await;
    let sent = noise(20_000);
    let mut records = Vec::new();
    for (index, byte) in sent.iter().enumerate() {
        let padding = if index % 100 == 0 { 5000 } else { index % 3 };
        records.extend(peer.seal_padded(ContentType::Data, &[*byte], padding));
    }
    let (received, written) =
        tokio::join!(read(&mut app, sent.len()), peer.stream.write_all(&records));
    written.unwrap();
    assert!(received == sent);
    drop(relay);
}

#[tokio::test]
async fn a_record_in_pieces_is_put_together() {
    let (mut peer, mut app, relay) = Peer::new().await;
    let sent = noise(1 << 14);
    for piece in peer.seal(ContentType::Data, &sent).chunks(3000) {
        peer.stream.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(read(&mut app, sent.len()).await == sent);
    drop(relay);
}

#[tokio::test]
async fn what_may_not_follow_the_handshake_is_refused() {
    // The kernel looks at less, later, and has fewer words for it; one more byte of length counts as
    // short there.
    let cases: &[(&[u8], RecordError, RecordError)] = &[
        (
            &[20, 3, 3, 0, 1, 1],
            RecordError::UnexpectedContentType(20),
            RecordError::Undecryptable,
        ),
        (
            &[23, 3, 1, 0, 40],
            RecordError::Version([3, 1]),
            RecordError::Header,
        ),
        (
            &[23, 3, 3, 0x41, 0x12],
            RecordError::TooLong,
            RecordError::TooLong,
        ),
    ];
    assert_eq!(MAX_CIPHERTEXT_LEN, 0x4100);
    for (bytes, here, in_kernel) in cases {
        let (mut peer, _app, relay) = Peer::new().await;
        peer.stream.write_all(bytes).await.unwrap();
        let error = if kernel::opens() { in_kernel } else { here };
        assert_eq!(end_of(relay).await, RelayEnd::BadRecord(*error));
        assert_eq!(peer.receive().await.0, Opened::FatalAlert(error.alert()));
    }
}

#[tokio::test]
async fn an_idle_relay_holds_no_buffer() {
    let ca = Ca::new("mesh");
    let [near, far] = wire_pair(&ca).await;
    let traffic = Traffic::default();
    let (mut client, inner) = tcp_pair(Some(4096)).await;
    let WireSocket {
        stream,
        ulp,
        offload,
    } = near.stream;
    let format = TlsWire::new(near.session, ulp, offload, &()).unwrap();
    let mut relay = Relay::new(inner, stream, format, &traffic);
    let mut peer = Peer::from(far);
    let sent = noise(1 << 20);
    let mut held_most = 0;
    let mut run = async |relay: &mut Relay<'_, TlsWire<'_, ()>>,
                         work: &mut (dyn Future<Output = ()> + Unpin)| {
        poll_fn(|cx| {
            assert!(with_batch(|batch| relay.poll(cx, batch)).is_pending());
            held_most = held_most.max(relay.capacity());
            Pin::new(&mut *work).poll(cx)
        })
        .await;
    };
    let mut work = Box::pin(async {
        for chunk in sent.chunks(1 << 14) {
            peer.send(ContentType::Data, chunk).await;
            client.write_all(chunk).await.unwrap();
            assert!(read(&mut client, chunk.len()).await == chunk);
            let mut received = Vec::new();
            while received.len() < chunk.len() {
                received.extend(peer.receive().await.1);
            }
            assert!(received == chunk);
        }
    });
    run(&mut relay, &mut work).await;
    assert!(held_most > 0);
    assert_eq!(relay.capacity(), 0);
}

#[tokio::test]
async fn a_relay_is_small() {
    let ca = Ca::new("mesh");
    let [near, _far] = wire_pair(&ca).await;
    let (_client, inner) = tcp_pair(None).await;
    let (traffic, stop) = (Traffic::default(), never());
    let size = size_of_val(&relay(
        inner,
        near.stream,
        near.session,
        &traffic,
        &stop,
        &(),
    ));
    assert!(size < 4096, "{size}");
}

#[tokio::test]
async fn plaintext_is_relayed_with_its_ends_and_resets() {
    let pair = async || {
        let (client, near) = tcp_pair(None).await;
        let (far, server) = tcp_pair(None).await;
        let relay = tokio::spawn(async {
            relay_plaintext(near, far.into(), &Traffic::default(), &never()).await
        });
        (client, server, relay)
    };
    let (client, server, relay) = pair().await;
    exchange(client, server, 8 << 20, 1 << 16, Duration::ZERO).await;
    assert_eq!(end_of(relay).await, RelayEnd::Orderly);

    let (client, mut server, relay) = pair().await;
    drop(client);
    assert_reset(&mut server).await;
    assert_eq!(end_of(relay).await, RelayEnd::AppReset);
}

impl Relay<'_, TlsWire<'_, ()>> {
    fn capacity(&self) -> usize {
        let Self { format, to_app, .. } = self;
        to_app.capacity() + format.capacity()
    }
}

/// Two programs, two relays, TLS between them.
struct Path {
    client: TcpStream,
    server: TcpStream,
    near: JoinHandle<RelayEnd>,
    far: JoinHandle<RelayEnd>,
    /// As the relay near the client counts.
    traffic: Arc<Traffic>,
}

impl Path {
    async fn new(buffer: Option<u32>) -> Self {
        let [near, far] = wire_pair(&Ca::new("mesh")).await;
        if let Some(len) = buffer {
            for WireSocket { stream, .. } in [&near.stream, &far.stream] {
                SockRef::from(stream)
                    .set_recv_buffer_size(len as usize)
                    .unwrap();
                SockRef::from(stream)
                    .set_send_buffer_size(len as usize)
                    .unwrap();
            }
        }
        let (client, near_app) = tcp_pair(buffer).await;
        let (far_app, server) = tcp_pair(buffer).await;
        let traffic = Arc::new(Traffic::default());
        let counted = Arc::clone(&traffic);
        let near = tokio::spawn(async move {
            relay(near_app, near.stream, near.session, &counted, &never(), &()).await
        });
        let far = tokio::spawn(async move {
            relay(
                far_app,
                far.stream,
                far.session,
                &Traffic::default(),
                &never(),
                &(),
            )
            .await
        });
        Self {
            client,
            server,
            near,
            far,
            traffic,
        }
    }
}

/// One side of a TLS connection.
struct Secured {
    stream: WireSocket,
    session: Session,
}

async fn wire_pair(ca: &Ca) -> [Secured; 2] {
    let (client, server) = (
        ca.mesh_tls(&Leaf::workload("a")),
        ca.mesh_tls(&Leaf::workload("b")),
    );
    let (near, far) = tcp_pair(None).await;
    let [mut near, mut far] = [near, far].map(by_environment);
    let (connected, accepted) = tokio::join!(
        connect(&client, Offer::Sealwire1, &mut near),
        accept(&server, ClientAuth::Required, &mut far),
    );
    [
        Secured {
            stream: near,
            session: connected.unwrap().session,
        },
        Secured {
            stream: far,
            session: accepted.unwrap().session,
        },
    ]
}

/// A TLS server that writes its records one by one, against a relay with its program.
struct Peer {
    stream: TcpStream,
    sealer: Sealer,
    opener: Opener,
    keys: KeySchedule,
}

impl Peer {
    async fn new() -> (Self, TcpStream, JoinHandle<RelayEnd>) {
        let (peer, app, relay, _) = Self::with_stop().await;
        (peer, app, relay)
    }

    /// The same, with what ends the relay.
    async fn with_stop() -> (Self, TcpStream, JoinHandle<RelayEnd>, Arc<StopSignal<()>>) {
        let [near, far] = wire_pair(&Ca::new("mesh")).await;
        let (app, inner) = tcp_pair(None).await;
        let stop = Arc::new(StopSignal::default());
        let signal = Arc::clone(&stop);
        let relay = tokio::spawn(async move {
            relay(
                inner,
                near.stream,
                near.session,
                &Traffic::default(),
                &signal,
                &(),
            )
            .await
        });
        (Self::from(far), app, relay, stop)
    }

    fn seal(&mut self, content_type: ContentType, content: &[u8]) -> Vec<u8> {
        self.seal_padded(content_type, content, 0)
    }

    /// Padding follows the content type: to the sealer it looks like content that ends in zeros.
    fn seal_padded(
        &mut self,
        content_type: ContentType,
        content: &[u8],
        padding: usize,
    ) -> Vec<u8> {
        let mut record = vec![0; HEADER_LEN];
        record.extend_from_slice(content);
        let mut len = content.len();
        let mut inner_type = content_type;
        if padding > 0 {
            record.push(content_type as u8);
            record.resize(record.len() + padding - 1, 0);
            len += padding;
            inner_type = ContentType::Padding;
        }
        record.resize(len + OVERHEAD, 0);
        self.sealer.seal(&mut record, inner_type, len).unwrap();
        record
    }

    async fn send(&mut self, content_type: ContentType, content: &[u8]) {
        let record = self.seal(content_type, content);
        self.stream.write_all(&record).await.unwrap();
    }

    async fn receive(&mut self) -> (Opened, Vec<u8>) {
        let mut record = read(&mut self.stream, HEADER_LEN).await;
        let len = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.extend(read(&mut self.stream, len).await);
        let opened = self.opener.open(&mut record).unwrap();
        let data = match &opened {
            Opened::Data(range) => record[range.clone()].to_vec(),
            _ => Vec::new(),
        };
        (opened, data)
    }
}

impl From<Secured> for Peer {
    fn from(Secured { stream, session }: Secured) -> Self {
        let Session { secrets, keys, .. } = session;
        let role = match keys {
            KeySchedule::Client(_) => Role::Client,
            KeySchedule::Server(_) => Role::Server,
        };
        Self {
            stream: stream.stream,
            sealer: Sealer::new(secrets.tx.0, &secrets.tx.1, 1 << 24).unwrap(),
            opener: Opener::new(secrets.rx.0, &secrets.rx.1, role).unwrap(),
            keys,
        }
    }
}

/// Sends `len` bytes each way in chunks of changing length, and ends both directions.
async fn exchange(
    client: TcpStream,
    server: TcpStream,
    len: usize,
    longest_chunk: usize,
    pause: Duration,
) {
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let bytes = noise(len);
    let send = async |mut sink: tokio::net::tcp::OwnedWriteHalf| {
        let mut rest = bytes.as_slice();
        let mut lengths = bytes.chunks_exact(4).cycle();
        while !rest.is_empty() {
            let step = u32::from_le_bytes(lengths.next().unwrap().try_into().unwrap());
            let len = (1 + step as usize % longest_chunk).min(rest.len());
            sink.write_all(&rest[..len]).await.unwrap();
            rest = &rest[len..];
        }
        sink.shutdown().await.unwrap();
        sink
    };
    let receive = async |mut source: tokio::net::tcp::OwnedReadHalf| {
        let mut expected = bytes.as_slice();
        let mut buffer = vec![0; longest_chunk];
        loop {
            let got = source.read(&mut buffer).await.unwrap();
            if got == 0 {
                assert!(expected.is_empty());
                return source;
            }
            assert!(expected.starts_with(&buffer[..got]));
            expected = &expected[got..];
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    };
    tokio::join!(
        send(client_write),
        send(server_write),
        receive(client_read),
        receive(server_read)
    );
}

fn never() -> StopSignal<()> {
    StopSignal::default()
}

/// The same pseudo-random bytes at each call.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

async fn read(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn assert_reset(stream: &mut TcpStream) {
    let mut byte = [0];
    let result = timeout(Duration::from_secs(5), stream.read(&mut byte))
        .await
        .unwrap();
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

async fn end_of(relay: JoinHandle<RelayEnd>) -> RelayEnd {
    timeout(Duration::from_secs(5), relay)
        .await
        .unwrap()
        .unwrap()
}

/// Connected sockets that reset when they are dropped, as the relay requires.
async fn tcp_pair(buffer: Option<u32>) -> (TcpStream, TcpStream) {
    let listening = TcpSocket::new_v4().unwrap();
    let connecting = TcpSocket::new_v4().unwrap();
    if let Some(len) = buffer {
        for socket in [&listening, &connecting] {
            socket.set_recv_buffer_size(len).unwrap();
            socket.set_send_buffer_size(len).unwrap();
        }
    }
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = listening.listen(1).unwrap();
    let (near, far) = tokio::join!(
        connecting.connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    let (near, (far, _)) = (near.unwrap(), far.unwrap());
    for stream in [&near, &far] {
        // As the agent prepares its sockets: an alert that waits for an acknowledgement is lost.
        stream.set_nodelay(true).unwrap();
        SockRef::from(stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    (near, far)
}
