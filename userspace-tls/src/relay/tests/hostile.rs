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
