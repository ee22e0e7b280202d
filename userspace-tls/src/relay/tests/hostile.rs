//! A peer that knows the keys and does what the programs can't: alerts and messages in the middle of a
//! transfer, records of every odd form.

use super::*;

/// By then the relay waits for the socket, and has nothing else to do.
#[tokio::test]
async fn a_wrong_header_ends_a_relay_that_waits() {
    let cases: &[(&[u8], RecordError, RecordError)] = &[
        (
            b"Lets print some clear text\n",
            RecordError::UnexpectedContentType(b'L'),
            RecordError::TooLong,
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
        (
            &[23, 3, 3, 0, 3, 1, 2, 3],
            RecordError::Undecryptable,
            RecordError::Undecryptable,
        ),
    ];
    for (bytes, here, in_kernel) in cases {
        let (mut peer, mut app, relay) = Peer::new().await;
        peer.send(ContentType::Data, b"before").await;
        assert_eq!(read(&mut app, 6).await, b"before");
        tokio::time::sleep(Duration::from_millis(50)).await;
        peer.stream.write_all(bytes).await.unwrap();
        let error = if kernel::opens() { in_kernel } else { here };
        assert_eq!(end_of(relay).await, RelayEnd::BadRecord(*error));
        assert_eq!(peer.receive().await.0, Opened::FatalAlert(error.alert()));
        assert_reset(&mut app).await;
    }
}

#[tokio::test]
async fn any_alert_in_mid_stream_ends_it_by_its_name_whatever_its_level() {
    // 100 is `no_renegotiation`, which TLS 1.3 has no more; 200 is nothing.
    for (level, description) in [(2, 40), (1, 80), (2, 10), (1, 100), (2, 116), (7, 200)] {
        let end = RelayEnd::PeerAlert(Alert(description));
        is_cut(&[(ContentType::Alert, &[level, description])], end).await;
    }
}

#[tokio::test]
async fn an_alert_of_wrong_form_in_mid_stream_is_refused() {
    for (alert, error) in [
        (&[1][..], RecordError::Malformed),
        (&[1, 0, 1, 0], RecordError::Malformed),
        (&[], RecordError::Empty),
    ] {
        is_cut(&[(ContentType::Alert, alert)], RelayEnd::BadRecord(error)).await;
    }
}

/// A renegotiation of TLS 1.2 begins with the first or the second, an authentication after the
/// handshake that nobody has agreed to with the fourth.
#[tokio::test]
async fn a_handshake_message_in_mid_stream_is_refused() {
    for kind in [0, 1, 2, 13, 20, 25] {
        let error = RecordError::UnexpectedHandshake(kind);
        let message = (ContentType::Handshake, &[kind, 0, 0, 0][..]);
        is_cut(&[message], RelayEnd::BadRecord(error)).await;
    }
}

#[tokio::test]
async fn a_ticket_for_a_server_is_refused() {
    let [near, far] = wire_pair(&Ca::new("mesh")).await;
    let (mut app, inner) = tcp_pair(None).await;
    let relay = kernel::start(inner, far, &Arc::default());
    let mut peer = Peer::from(near);
    peer.send(ContentType::Data, b"before").await;
    assert_eq!(read(&mut app, 6).await, b"before");
    peer.send(ContentType::Handshake, &[4, 0, 0, 3, 1, 2, 3])
        .await;
    let error = RecordError::UnexpectedHandshake(4);
    assert_eq!(end_of(relay).await, RelayEnd::BadRecord(error));
    assert_eq!(peer.receive().await.0, Opened::FatalAlert(error.alert()));
    assert_reset(&mut app).await;
}

#[tokio::test]
async fn what_means_nothing_in_mid_stream_changes_nothing() {
    let ticket = [&[4, 0, 0, 200][..], &[7; 200]].concat();
    for between in [
        // An alert that says nothing in TLS 1.3, of either level.
        &[
            (ContentType::Alert, &[1, 90][..]),
            (ContentType::Alert, &[2, 90]),
        ][..],
        // Records without data.
        &[(ContentType::Data, &[][..]); 32],
        // Two tickets in a record, and one in three.
        &[(ContentType::Handshake, &[4, 0, 0, 1, 9, 4, 0, 0, 2, 9, 9])],
        &[
            (ContentType::Handshake, &ticket[..2]),
            (ContentType::Handshake, &ticket[2..100]),
            (ContentType::Handshake, &ticket[100..]),
        ],
    ] {
        let (mut peer, app, relay) = Peer::new().await;
        let text = noise(LEN);
        let mut wire = interrupted(&mut peer, between);
        wire.extend(peer.seal(ContentType::Alert, &[1, 0]));
        let Transfer {
            received,
            received_end,
            sent,
            ..
        } = transfer(&mut peer, app, &wire).await;
        assert!(received == text);
        assert_eq!(received_end, None);
        assert!(sent == text);
        assert_eq!(end_of(relay).await, RelayEnd::Orderly);
    }
}

#[tokio::test]
async fn after_close_notify_the_other_direction_goes_on() {
    for level in [1, 2] {
        let (mut peer, app, relay) = Peer::new().await;
        let text = noise(LEN);
        let mut wire = interrupted(&mut peer, &[]);
        wire.extend(peer.seal(ContentType::Alert, &[level, 0]));
        let transfer = transfer(&mut peer, app, &wire).await;
        assert!(transfer.received == text);
        assert_eq!(transfer.received_end, None);
        assert!(transfer.sent == text);
        assert_eq!(transfer.sent_end, None);
        assert_eq!(end_of(relay).await, RelayEnd::Orderly);
    }
}

/// RFC 8446 section 6.1. What lies unread when a socket is closed makes a reset of it, which may
/// overtake our own last bytes: a peer that does so sees the reset, and no end.
#[tokio::test]
async fn what_follows_close_notify_is_not_read() {
    let (mut peer, app, relay) = Peer::new().await;
    let text = noise(LEN);
    let wire = interrupted(&mut peer, &[(ContentType::Alert, &[1, 0])]);
    let transfer = transfer(&mut peer, app, &wire).await;
    assert!(transfer.received == text[..LEN / 2]);
    assert_eq!(transfer.received_end, None);
    let reset = Some(io::ErrorKind::ConnectionReset);
    assert!(text.starts_with(&transfer.sent));
    assert!(transfer.sent.len() == LEN || transfer.sent_end == reset);
    assert_eq!(end_of(relay).await, RelayEnd::Orderly);
}

#[tokio::test]
async fn odd_records_in_mid_stream_are_refused_and_full_ones_taken() {
    let full = noise(MAX_PLAINTEXT_LEN);
    let undecryptable = RecordError::Undecryptable;
    // The content type stands before the padding; to the sealer both look like data.
    let cases: [(&[u8], RecordError, RecordError); 4] = [
        (&[0; 100], RecordError::NoContentType, undecryptable),
        (
            &[1, 25, 0],
            RecordError::UnexpectedContentType(25),
            RecordError::UnexpectedContentType(25),
        ),
        (
            &[1, 20, 0],
            RecordError::UnexpectedContentType(20),
            RecordError::UnexpectedContentType(20),
        ),
        (
            &[&full[..], &[23]].concat(),
            RecordError::TooLong,
            RecordError::TooLong,
        ),
    ];
    for (content, here, in_kernel) in cases {
        let [here, in_kernel] = [here, in_kernel].map(RelayEnd::BadRecord);
        is_cut_by_either(&[(ContentType::Padding, content)], here, in_kernel).await;
    }
    let (mut peer, mut app, _relay) = Peer::new().await;
    for padding in [0, 1, 256, MAX_PLAINTEXT_LEN - 1] {
        let data = &full[padding..];
        let record = peer.seal_padded(ContentType::Data, data, padding);
        assert_eq!(record.len(), MAX_PLAINTEXT_LEN + OVERHEAD);
        peer.stream.write_all(&record).await.unwrap();
        assert!(read(&mut app, data.len()).await == data);
    }
}

/// The relay ends so, and its program has got the beginning of what came before, and a reset.
async fn is_cut(between: &[(ContentType, &[u8])], end: RelayEnd) {
    is_cut_by_either(between, end, end).await;
}

/// The same where the kernel, if it opens by then, has another word for it.
async fn is_cut_by_either(between: &[(ContentType, &[u8])], here: RelayEnd, in_kernel: RelayEnd) {
    let [near, far] = wire_pair(&Ca::new("mesh")).await;
    let (app, inner) = tcp_pair(None).await;
    let seen = Arc::default();
    let relay = kernel::start(inner, near, &seen);
    let mut peer = Peer::from(far);
    let text = noise(LEN);
    let wire = interrupted(&mut peer, between);
    let Transfer {
        received,
        received_end,
        written_end,
        sent,
        ..
    } = transfer(&mut peer, app, &wire).await;
    let opened_in_kernel = seen.count("rx") > 0;
    let end = if opened_in_kernel { in_kernel } else { here };
    assert_eq!(end_of(relay).await, end, "{between:?}");
    assert!(text[..LEN / 2].starts_with(&received));
    assert!(text.starts_with(&sent));
    // The kernel tells of a reset once: whichever call comes first.
    let reset = Some(io::ErrorKind::ConnectionReset);
    assert!(
        received_end == reset || written_end == reset,
        "{received_end:?} {written_end:?}"
    );
}

/// What a transfer in both directions came to.
struct Transfer {
    received: Vec<u8>,
    /// The error that the program's reading ended with.
    received_end: Option<io::ErrorKind>,
    written_end: Option<io::ErrorKind>,
    /// What the peer could open.
    sent: Vec<u8>,
    sent_end: Option<io::ErrorKind>,
}

/// The peer writes `wire`, the program [`LEN`] bytes, each while it reads to the end.
async fn transfer(peer: &mut Peer, mut app: TcpStream, wire: &[u8]) -> Transfer {
    let text = noise(LEN);
    let (mut app_source, mut app_sink) = app.split();
    let (mut peer_source, mut peer_sink) = peer.stream.split();
    let (mut received, mut sealed) = (Vec::new(), Vec::new());
    let says = async {
        app_sink.write_all(&text).await?;
        app_sink.shutdown().await
    };
    let all = async {
        tokio::join!(
            app_source.read_to_end(&mut received),
            says,
            peer_source.read_to_end(&mut sealed),
            peer_sink.write_all(wire),
        )
    };
    let (reading, writing, opening, _) = timeout(Duration::from_mins(1), all)
        .await
        .expect("the end of a transfer");
    Transfer {
        received_end: reading.err().map(|error| error.kind()),
        written_end: writing.err().map(|error| error.kind()),
        received,
        sent: opened(peer, &mut sealed),
        sent_end: opening.err().map(|error| error.kind()),
    }
}

/// The data in whole records.
fn opened(peer: &mut Peer, mut sealed: &mut [u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(len) = crate::records::record_len(sealed).unwrap()
        && len <= sealed.len()
    {
        let (record, rest) = sealed.split_at_mut(len);
        if let Opened::Data(range) = peer.opener.open(record).unwrap() {
            data.extend_from_slice(&record[range]);
        }
        sealed = rest;
    }
    data
}

/// [`LEN`] bytes in records, with others in the middle.
fn interrupted(peer: &mut Peer, between: &[(ContentType, &[u8])]) -> Vec<u8> {
    let text = noise(LEN);
    let mut wire = Vec::new();
    for (index, data) in text.chunks(MAX_PLAINTEXT_LEN).enumerate() {
        if index * MAX_PLAINTEXT_LEN == LEN / 2 {
            for (content_type, content) in between {
                wire.extend(peer.seal(*content_type, content));
            }
        }
        wire.extend(peer.seal(ContentType::Data, data));
    }
    wire
}

/// More than makes a direction bulk.
const LEN: usize = 4 << 20;
