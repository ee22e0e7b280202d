//! A relay that is ended from outside: at once, and never so that it looks like an orderly end.

use super::*;

#[tokio::test]
async fn an_idle_relay_ends_at_once_with_an_alert_and_a_reset() {
    let (mut peer, mut app, relay, stop) = Peer::with_stop().await;
    peer.send(ContentType::Data, b"before").await;
    assert_eq!(read(&mut app, 6).await, b"before");
    stop.stop(());
    assert_eq!(end_of(relay).await, RelayEnd::Stopped);
    assert_eq!(
        peer.receive().await.0,
        Opened::FatalAlert(Alert::ACCESS_DENIED)
    );
    assert_reset(&mut peer.stream).await;
    assert_reset(&mut app).await;
}

#[tokio::test]
async fn a_relay_that_is_stopped_before_it_runs_moves_nothing() {
    let [near, far] = wire_pair(&Ca::new("mesh")).await;
    let (mut app, inner) = tcp_pair(None).await;
    let mut peer = Peer::from(far);
    app.write_all(b"too late").await.unwrap();
    peer.send(ContentType::Data, b"too late").await;
    let (traffic, stop) = (Traffic::default(), StopSignal::default());
    stop.stop(());
    let end = relay(inner, near.stream, near.session, &traffic, &stop, &()).await;
    assert_eq!(end, RelayEnd::Stopped);
    assert_eq!(traffic.sent.load(Ordering::Relaxed), 0);
    assert_eq!(traffic.received.load(Ordering::Relaxed), 0);
    assert_eq!(
        peer.receive().await.0,
        Opened::FatalAlert(Alert::ACCESS_DENIED)
    );
    assert_reset(&mut app).await;
}

#[tokio::test]
async fn a_relay_whose_peer_does_not_read_ends_at_once_with_a_reset() {
    let (mut peer, mut app, relay, stop) = Peer::with_stop().await;
    let block = vec![0; 1 << 20];
    while timeout(Duration::from_millis(200), app.write_all(&block))
        .await
        .is_ok()
    {}
    stop.stop(());
    assert_eq!(end_of(relay).await, RelayEnd::Stopped);
    assert_reset(&mut app).await;
    // A record was cut, so no alert can follow it.
    let end = loop {
        let mut buffer = [0; 1 << 14];
        match peer.stream.read(&mut buffer).await {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!(end, Some(io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_relay_in_full_flow_ends_on_both_sides_of_the_wire() {
    let [near, far] = wire_pair(&Ca::new("mesh")).await;
    let (client, near_app) = tcp_pair(None).await;
    let (far_app, server) = tcp_pair(None).await;
    let stop = Arc::new(StopSignal::default());
    let signal = Arc::clone(&stop);
    let traffic = Arc::new(Traffic::default());
    let counted = Arc::clone(&traffic);
    let near = tokio::spawn(async move {
        relay(near_app, near.stream, near.session, &counted, &signal, &()).await
    });
    let far = tokio::spawn(async move {
        let (traffic, never) = (Traffic::default(), never());
        relay(far_app, far.stream, far.session, &traffic, &never, &()).await
    });
    let flow = async |stream: TcpStream| {
        let (mut source, mut sink) = stream.into_split();
        let drain = async {
            let mut buffer = vec![0; 1 << 16];
            loop {
                match source.read(&mut buffer).await {
                    Ok(0) => break None,
                    Ok(_) => {}
                    Err(error) => break Some(error.kind()),
                }
            }
        };
        let fill = async {
            loop {
                if let Err(error) = sink.write_all(&[7; 1 << 14]).await {
                    break error.kind();
                }
            }
        };
        tokio::join!(drain, fill)
    };
    let stopping = async {
        while traffic.sent.load(Ordering::Relaxed) < 1 << 20
            || traffic.received.load(Ordering::Relaxed) < 1 << 20
        {
            tokio::task::yield_now().await;
        }
        stop.stop(());
    };
    let (at_client, at_server, ()) = tokio::join!(flow(client), flow(server), stopping);
    for (read, written) in [at_client, at_server] {
        // The kernel tells of a reset once: whichever call comes first. The other then sees the
        // end of the stream, or a broken pipe.
        let reset = io::ErrorKind::ConnectionReset;
        assert!(
            read == Some(reset) || written == reset,
            "{read:?} {written:?}"
        );
    }
    assert_eq!(end_of(near).await, RelayEnd::Stopped);
    let far = end_of(far).await;
    assert!(
        matches!(
            far,
            RelayEnd::PeerAlert(Alert::ACCESS_DENIED) | RelayEnd::WireReset
        ),
        "{far}"
    );
}

#[tokio::test]
async fn nothing_follows_close_notify() {
    let (mut peer, mut app, relay, stop) = Peer::with_stop().await;
    app.shutdown().await.unwrap();
    assert_eq!(peer.receive().await.0, Opened::CloseNotify);
    stop.stop(());
    assert_eq!(end_of(relay).await, RelayEnd::Stopped);
    let mut rest = Vec::new();
    let _ = peer.stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    assert_reset(&mut app).await;
}

#[tokio::test]
async fn plaintext_ends_with_a_reset_on_both_sides() {
    let (mut client, near) = tcp_pair(None).await;
    let (far, mut server) = tcp_pair(None).await;
    let stop = Arc::new(StopSignal::default());
    let signal = Arc::clone(&stop);
    let relay = tokio::spawn(async move {
        relay_plaintext(near, far.into(), &Traffic::default(), &signal).await
    });
    client.write_all(b"x").await.unwrap();
    read(&mut server, 1).await;
    stop.stop(());
    assert_eq!(end_of(relay).await, RelayEnd::Stopped);
    assert_reset(&mut client).await;
    assert_reset(&mut server).await;
}
