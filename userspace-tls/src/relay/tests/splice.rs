//! Bulk that is spliced where the kernel has the keys.

use std::os::fd::AsFd as _;

use aws_lc_rs::digest::{Context as Digest, SHA256};
use kernel_tls::Pipe;

use super::kernel::{Seen, capabilities, counted, kernel_pair, require_kernel_tls, skip};
use super::*;
use crate::offload::{BULK_BYTES, Takeover};
use crate::records::MAX_PLAINTEXT_LEN;

/// Leaves a test on a kernel whose splicing is not sound, and says so aloud.
macro_rules! require_splice {
    () => {
        require_kernel_tls!();
        if let Err(why) = capabilities().splice() {
            skip(why);
            return;
        }
    };
}

#[tokio::test]
async fn a_gibibyte_arrives_with_its_hash_though_both_ends_stall_at_random() {
    require_splice!();
    let traffics = [0, 1].map(|_| Arc::<Traffic>::default());
    let (client, server, relays) = path(&traffics).await;
    let (sent, received) = tokio::join!(send(client, GIBIBYTE, 1 << 20), receive(server, 1 << 20));
    assert_eq!(received, (GIBIBYTE, sent));
    for relay in relays {
        assert_eq!(ended(relay).await, RelayEnd::Orderly);
    }
    for traffic in traffics {
        let spliced = traffic.spliced.load(Ordering::Relaxed);
        assert!(spliced > GIBIBYTE as u64 / 10 * 9, "{spliced}");
    }
}

#[tokio::test]
async fn no_byte_is_lost_when_buffers_are_tiny() {
    require_splice!();
    let [near, far] = kernel_pair(Takeover::Bulk, Takeover::Bulk).await;
    let (mut client, near_app) = tcp_pair(None).await;
    let (far_app, mut server) = tcp_pair(None).await;
    // What is spliced then goes on in small parts, through either side's pipe.
    let narrow = [near.stream.stream.as_fd(), far_app.as_fd()].map(|it| it.try_clone_to_owned());
    let traffics = [0, 1].map(|_| Arc::<Traffic>::default());
    let seen = Arc::<Seen>::default();
    let relays = [
        counted(near_app, near, &seen, &traffics[0]),
        counted(far_app, far, &seen, &traffics[1]),
    ];
    let block = noise(3 << 20);
    pass(&mut client, &mut server, &block).await;
    for socket in narrow {
        SockRef::from(&socket.unwrap())
            .set_send_buffer_size(2048)
            .unwrap();
    }
    let before = spliced(&traffics);
    let both = async { tokio::join!(send(client, 1 << 20, 1 << 17), receive(server, 3000)) };
    let (sent, received) = within_a_minute(both, &traffics).await;
    assert_eq!(received, (1 << 20, sent));
    for relay in relays {
        assert_eq!(ended(relay).await, RelayEnd::Orderly);
    }
    let after = spliced(&traffics);
    assert!(before[0] < after[0] && before[1] < after[1]);
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer() {
    require_splice!();
    let traffics = [0, 1].map(|_| Arc::<Traffic>::default());
    let (mut client, mut server, _relays) = path(&traffics).await;
    let block = noise(1 << 20);
    for _ in 0..3 {
        pass(&mut client, &mut server, &block).await;
    }
    let before = spliced(&traffics);
    let mut sent = Vec::<u8>::new();
    while let Ok(written) = timeout(Duration::from_secs(1), client.write(&block)).await {
        sent.extend(&block[..written.unwrap()]);
        assert!(
            sent.len() < 64 << 20,
            "nobody reads, and {} bytes are taken",
            sent.len()
        );
    }
    let stopped = spliced(&traffics);
    assert!(before[0] < stopped[0] && before[1] < stopped[1]);
    assert!(read(&mut server, sent.len()).await == sent);
}

#[tokio::test]
async fn control_records_between_spliced_data_are_heard() {
    require_splice!();
    let [near, far] = kernel_pair(Takeover::Bulk, Takeover::Bulk).await;
    let mut peer = Peer::from(far);
    let traffic = Arc::<Traffic>::default();
    let (mut app, inner) = tcp_pair(None).await;
    let relay = counted(inner, near, &Arc::default(), &traffic);
    let block = noise(MAX_PLAINTEXT_LEN);
    let mut records = Vec::new();
    let mut expected = Vec::<u8>::new();
    for round in 0..400_usize {
        records.extend(peer.seal(ContentType::Data, &block));
        expected.extend(&block);
        match round % 4 {
            // A ticket, half of one and its rest, a warning, and no data at all.
            0 => records.extend(peer.seal(ContentType::Handshake, &[4, 0, 0, 3, 1, 2, 3])),
            1 => {
                records.extend(peer.seal(ContentType::Handshake, &[4, 0, 0]));
                records.extend(peer.seal(ContentType::Handshake, &[3, 1, 2, 3]));
            }
            2 => records.extend(peer.seal(ContentType::Alert, &[1, 90])),
            _ => records.extend(peer.seal_padded(ContentType::Data, b"", 100)),
        }
    }
    records.extend(peer.seal(ContentType::Alert, &[1, 0]));
    let write = async { peer.stream.write_all(&records).await.unwrap() };
    let mut received = Vec::new();
    let (got, ()) = tokio::join!(app.read_to_end(&mut received), write);
    got.unwrap();
    assert!(received == expected);
    let spliced = traffic.spliced.load(Ordering::Relaxed);
    assert!(spliced > expected.len() as u64 / 2, "{spliced}");
    app.shutdown().await.unwrap();
    assert_eq!(peer.receive().await.0, Opened::CloseNotify);
    assert_eq!(ended(relay).await, RelayEnd::Orderly);
}

#[tokio::test]
async fn what_ends_the_connection_behind_spliced_data_is_told_by_name() {
    require_splice!();
    let forge = |mut record: Vec<u8>| {
        record[HEADER_LEN] ^= 1;
        record
    };
    for (case, end) in [
        (0, RelayEnd::BadRecord(RecordError::Undecryptable)),
        (1, RelayEnd::PeerAlert(Alert::INTERNAL_ERROR)),
        (2, RelayEnd::BadRecord(RecordError::Header)),
        (3, RelayEnd::WireTruncated),
    ] {
        let [near, far] = kernel_pair(Takeover::Bulk, Takeover::Bulk).await;
        let mut peer = Peer::from(far);
        let traffic = Arc::<Traffic>::default();
        let (mut app, inner) = tcp_pair(None).await;
        let relay = counted(inner, near, &Arc::default(), &traffic);
        let block = noise(MAX_PLAINTEXT_LEN);
        let count = 3 * BULK_BYTES / MAX_PLAINTEXT_LEN;
        let mut records = Vec::new();
        for _ in 0..count {
            records.extend(peer.seal(ContentType::Data, &block));
        }
        match case {
            0 => records.extend(forge(peer.seal(ContentType::Data, b"forged"))),
            1 => records.extend(peer.seal(ContentType::Alert, &[2, 80])),
            2 => records.extend(b"GET / HTTP/1.1\r\n\r\n"),
            _ => {}
        }
        let write = async {
            peer.stream.write_all(&records).await.unwrap();
            if case == 3 {
                peer.stream.shutdown().await.unwrap();
            }
        };
        let mut received = Vec::new();
        let both = async { tokio::join!(app.read_to_end(&mut received), write) };
        let (got, ()) = within_a_minute(both, end).await;
        // A reset overtakes what the program has not made room for.
        assert_eq!(got.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let mut blocks = received.chunks(block.len());
        assert!(blocks.all(|chunk| block.starts_with(chunk)));
        assert!(traffic.spliced.load(Ordering::Relaxed) > 0);
        assert_eq!(ended(relay).await, end);
    }
}

#[tokio::test]
async fn small_messages_after_bulk_are_copied_again() {
    require_splice!();
    let traffics = [0, 1].map(|_| Arc::<Traffic>::default());
    let (mut client, mut server, _relays) = path(&traffics).await;
    let block = noise(4 << 20);
    for _ in 0..2 {
        let before = spliced(&traffics);
        pass(&mut client, &mut server, &block).await;
        let after_bulk = spliced(&traffics);
        assert!(before[0] < after_bulk[0] && before[1] < after_bulk[1]);
        for _ in 0..100 {
            client.write_all(b"small").await.unwrap();
            assert_eq!(read(&mut server, 5).await, b"small");
            server.write_all(b"answer").await.unwrap();
            assert_eq!(read(&mut client, 6).await, b"answer");
        }
        let after_small = spliced(&traffics);
        for (bulk, small) in after_bulk.iter().zip(after_small) {
            assert!(small - bulk <= 10 * 11, "{bulk} {small}");
        }
    }
}

#[tokio::test]
async fn records_of_one_byte_are_spliced_without_loss() {
    require_splice!();
    let [near, far] = kernel_pair(Takeover::Never, Takeover::Bulk).await;
    let mut peer = Peer::from(far);
    let (mut app, inner) = tcp_pair(None).await;
    let traffic = Arc::<Traffic>::default();
    let _relay = counted(inner, near, &Arc::default(), &traffic);
    let sent = noise(2 * BULK_BYTES + 3 * Pipe::PIECES);
    let (bulk, bytes) = sent.split_at(2 * BULK_BYTES);
    let mut before = 0;
    for (part, record_len) in [(bulk, MAX_PLAINTEXT_LEN), (bytes, 1)] {
        let mut records = Vec::new();
        for chunk in part.chunks(record_len) {
            records.extend(peer.seal(ContentType::Data, chunk));
        }
        let write = async { peer.stream.write_all(&records).await.unwrap() };
        let (received, ()) = tokio::join!(read(&mut app, part.len()), write);
        assert!(received == part);
        let after = traffic.spliced.load(Ordering::Relaxed);
        assert!(before < after, "{before} {after}");
        before = after;
    }
}

#[tokio::test]
async fn a_reset_in_full_flow_reaches_the_other_program() {
    require_splice!();
    for client_first in [true, false] {
        let traffics = [0, 1].map(|_| Arc::<Traffic>::default());
        let (mut client, mut server, [near, far]) = path(&traffics).await;
        let block = noise(4 << 20);
        pass(&mut client, &mut server, &block).await;
        client.write_all(&block[..1 << 20]).await.unwrap();
        let (end_of_first, end_of_second) = if client_first {
            drop(client);
            let mut rest = Vec::new();
            let error = server.read_to_end(&mut rest).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert!(block.starts_with(&rest));
            (near, far)
        } else {
            drop(server);
            assert_reset(&mut client).await;
            (far, near)
        };
        assert_eq!(ended(end_of_first).await, RelayEnd::AppReset);
        assert_eq!(ended(end_of_second).await, RelayEnd::WireReset);
    }
}

/// Two programs, two relays, and the kernel's TLS once it is bulk.
async fn path(traffics: &[Arc<Traffic>; 2]) -> (TcpStream, TcpStream, [JoinHandle<RelayEnd>; 2]) {
    let [near, far] = kernel_pair(Takeover::Bulk, Takeover::Bulk).await;
    let (client, near_app) = tcp_pair(None).await;
    let (far_app, server) = tcp_pair(None).await;
    let seen = Arc::<Seen>::default();
    let relays = [
        counted(near_app, near, &seen, &traffics[0]),
        counted(far_app, far, &seen, &traffics[1]),
    ];
    (client, server, relays)
}

/// All of it arrives.
async fn pass(client: &mut TcpStream, server: &mut TcpStream, bytes: &[u8]) {
    let (written, got) = tokio::join!(client.write_all(bytes), read(server, bytes.len()));
    written.unwrap();
    assert!(got == bytes);
}

fn spliced(traffics: &[Arc<Traffic>; 2]) -> [u64; 2] {
    traffics
        .each_ref()
        .map(|it| it.spliced.load(Ordering::Relaxed))
}

/// Sends `len` bytes in chunks of changing length with pauses between some; their hash.
async fn send(mut sink: TcpStream, len: usize, longest: usize) -> Vec<u8> {
    let bytes = noise(2 * longest);
    let (mut digest, mut stalls) = (Digest::new(&SHA256), Stalls(1));
    let mut rest = len;
    while rest > 0 {
        let len = (1 + stalls.next() % longest).min(rest);
        let at = stalls.next() % longest;
        let chunk = &bytes[at..at + len];
        digest.update(chunk);
        sink.write_all(chunk).await.unwrap();
        rest -= len;
        stalls.stall().await;
    }
    sink.shutdown().await.unwrap();
    // The other direction ends as well.
    assert_eq!(sink.read(&mut [0]).await.unwrap(), 0);
    digest.finish().as_ref().to_vec()
}

/// Reads to the end with pauses between some reads: how much, and its hash.
async fn receive(mut source: TcpStream, longest: usize) -> (usize, Vec<u8>) {
    let mut buffer = vec![0; longest];
    let (mut digest, mut stalls) = (Digest::new(&SHA256), Stalls(2));
    let mut received = 0;
    loop {
        let len = source.read(&mut buffer).await.unwrap();
        if len == 0 {
            break;
        }
        digest.update(&buffer[..len]);
        received += len;
        stalls.stall().await;
    }
    source.shutdown().await.unwrap();
    (received, digest.finish().as_ref().to_vec())
}

/// Numbers that look random, and pauses by them.
struct Stalls(u64);

impl Stalls {
    fn next(&mut self) -> usize {
        let Self(state) = self;
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize
    }

    async fn stall(&mut self) {
        if self.next().is_multiple_of(50) {
            tokio::time::sleep(Duration::from_millis(self.next() as u64 % 20)).await;
        }
    }
}

/// In an emulated machine everything takes its time, but not for ever.
async fn within_a_minute<R>(work: impl Future<Output = R>, what: impl fmt::Debug) -> R {
    let done = timeout(Duration::from_mins(1), work).await.ok();
    done.unwrap_or_else(|| panic!("{what:?}: nothing has happened for a minute"))
}

/// As [`end_of`], with the time that an emulated machine takes to drain what is on its way.
async fn ended(relay: JoinHandle<RelayEnd>) -> RelayEnd {
    timeout(Duration::from_mins(1), relay)
        .await
        .unwrap()
        .unwrap()
}

const GIBIBYTE: usize = 1 << 30;
