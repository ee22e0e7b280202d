//! Peers that do the handshake as they should and then don't keep to the protocol.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsStream;

use super::*;
use crate::error::ProtocolViolation;
use crate::frame;
use crate::wire::{Challenge, Proof, Verdict};

type Raw = TlsStream<DuplexStream>;

/// A server that demands nothing, and a client that does the handshake and then what it likes.
async fn serve(demand: Demand, client: impl AsyncFnOnce(Raw)) -> Connection {
    let (near, far) = duplex(16 * 1024);
    let server = tls(demand);
    let attacker = async {
        let session = tls(Demand::Nothing).client_handshake(near).await.unwrap();
        client(session.tls).await;
    };
    let (at_server, ()) = tokio::join!(server.accept(far, Offer::default()), attacker);
    at_server
}

fn challenge() -> Vec<u8> {
    Challenge {
        nonce: [1; 32],
        wants_evidence: false,
        manifest: None,
        certified_keys: Vec::new(),
    }
    .encode()
}

fn proof() -> Vec<u8> {
    Proof { evidence: None }.encode()
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
        bytes.extend_from_slice(message);
    }
    bytes
}

/// Sends the bytes and waits for the end.
async fn send(mut raw: Raw, bytes: &[u8]) {
    raw.write_all(bytes).await.unwrap();
    raw.flush().await.unwrap();
    let _ = raw.read_to_end(&mut Vec::new()).await;
}

#[track_caller]
fn violation(connection: Connection) -> ProtocolViolation {
    match connection.unwrap_err() {
        AttestedTlsError::Protocol(violation) => violation,
        other => panic!("{other:?}"),
    }
}

/// What a client that keeps to the protocol sends, message by message.
fn honest() -> [(&'static str, Vec<u8>); 3] {
    [
        ("challenge", challenge()),
        ("proof", proof()),
        ("verdict", Verdict::Accepted.encode()),
    ]
}

fn honest_until(step: usize) -> Vec<u8> {
    let messages: Vec<_> = honest()[..step].iter().map(|it| it.1.clone()).collect();
    framed(&messages)
}

#[tokio::test]
async fn the_honest_messages_of_these_tests_are_accepted() {
    let bytes = honest_until(3);
    let connection = serve(Demand::Nothing, async |mut raw: Raw| {
        raw.write_all(&bytes).await.unwrap();
        raw.flush().await.unwrap();
        for _ in 0..3 {
            frame::read(&mut raw, "message", 1000).await.unwrap();
        }
    })
    .await;
    connection.unwrap();
}

#[tokio::test]
async fn garbage_is_refused_at_each_step() {
    for (step, (name, _)) in honest().into_iter().enumerate() {
        let bytes = [honest_until(step), framed(&[vec![0xff; 20]])].concat();
        let connection = serve(Demand::Nothing, async |raw| send(raw, &bytes).await).await;
        assert!(
            matches!(
                violation(connection),
                ProtocolViolation::Malformed { message, .. } if message == name
            ),
            "{name}"
        );
    }
}

#[tokio::test]
async fn four_gigabytes_are_refused_at_each_step_before_any_follows() {
    for (step, (name, _)) in honest().into_iter().enumerate() {
        let bytes = [honest_until(step), u32::MAX.to_be_bytes().to_vec()].concat();
        let connection = serve(Demand::Nothing, async |raw| send(raw, &bytes).await).await;
        assert!(
            matches!(
                violation(connection),
                ProtocolViolation::TooLong { message, got, .. }
                    if message == name && got == u32::MAX as usize
            ),
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_end_at_each_step_is_an_error_closed_or_cut_off() {
    for step in 0..3 {
        for is_closed in [true, false] {
            // In the middle of the message's length.
            let bytes = [honest_until(step), vec![0, 0]].concat();
            let connection = serve(Demand::Nothing, async |mut raw: Raw| {
                raw.write_all(&bytes).await.unwrap();
                raw.flush().await.unwrap();
                if is_closed {
                    raw.shutdown().await.unwrap();
                }
            })
            .await;
            assert!(
                matches!(
                    &connection,
                    Err(AttestedTlsError::Io(error)) if matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe
                    )
                ),
                "{step} {connection:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_accepted_connection_that_is_cut_off_does_not_look_finished() {
    let machine = Machine::running(1);
    let (client, server) = (tls(machine.demanded()), tls(Demand::Nothing));
    let (near, far) = meet((&client, Offer::default()), (&server, machine.offer())).await;
    drop(far.unwrap());
    let error = near
        .unwrap()
        .read_to_end(&mut Vec::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn evidence_that_nobody_asked_for_is_refused() {
    let proof = Proof {
        evidence: Some(vec![1]),
    };
    let bytes = framed(&[challenge(), proof.encode()]);
    let connection = serve(Demand::Nothing, async |raw| send(raw, &bytes).await).await;
    assert_eq!(violation(connection), ProtocolViolation::UnwantedEvidence);
}

#[tokio::test]
async fn evidence_that_is_none_is_refused_like_any_other() {
    for evidence in [vec![], vec![0xff; 9]] {
        let proof = Proof {
            evidence: Some(evidence),
        };
        let bytes = framed(&[challenge(), proof.encode()]);
        let demand = Machine::running(1).demanded();
        let connection = serve(demand, async |mut raw: Raw| {
            raw.write_all(&bytes).await.unwrap();
            raw.flush().await.unwrap();
            for _ in 0..2 {
                frame::read(&mut raw, "message", 1000).await.unwrap();
            }
            let verdict = frame::read(&mut raw, "verdict", 1000).await.unwrap();
            let verdict = Verdict::decode(&verdict).unwrap();
            assert!(
                matches!(&verdict, Verdict::Refused { code, .. } if code == "attestation-refused"),
                "{verdict:?}"
            );
        })
        .await;
        assert_eq!(refused(connection).0, [Code::Malformed]);
    }
}

#[tokio::test]
async fn another_version_is_refused() {
    // Field 1, a varint: version 2.
    let bytes = framed(&[vec![0x08, 2]]);
    let connection = serve(Demand::Nothing, async |raw| send(raw, &bytes).await).await;
    assert!(
        violation(connection).to_string().contains("version 2"),
        "another violation"
    );
}

#[tokio::test(start_paused = true)]
async fn a_byte_a_second_is_too_slow_at_each_step() {
    for step in 0..3 {
        let bytes = [honest_until(step), framed(&[vec![0; 100]])].concat();
        let start = honest_until(step).len();
        let began = tokio::time::Instant::now();
        let connection = serve(Demand::Nothing, async |mut raw: Raw| {
            raw.write_all(&bytes[..start]).await.unwrap();
            for byte in &bytes[start..] {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if raw.write_all(&[*byte]).await.is_err() || raw.flush().await.is_err() {
                    break;
                }
            }
        })
        .await;
        assert!(
            matches!(
                connection,
                Err(AttestedTlsError::Deadline { after }) if after == Duration::from_secs(10)
            ),
            "{step} {connection:?}"
        );
        assert!(began.elapsed() < Duration::from_mins(2), "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_lost_to_a_peer_that_stalls() {
    let bytes = framed(&[challenge(), proof()]);
    let connection = serve(Machine::running(1).demanded(), async |mut raw: Raw| {
        raw.write_all(&bytes).await.unwrap();
        raw.flush().await.unwrap();
        tokio::time::sleep(Duration::from_mins(1)).await;
    })
    .await;
    assert_eq!(refused(connection).0, [Code::Missing]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_does_not_hold_the_server_for_longer() {
    let connection = serve(Demand::Nothing, async |raw: Raw| {
        tokio::time::sleep(Duration::from_mins(1)).await;
        drop(raw);
    })
    .await;
    assert!(
        matches!(connection, Err(AttestedTlsError::Deadline { .. })),
        "{connection:?}"
    );
}
