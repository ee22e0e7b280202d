//! Foreign programs that are killed in the middle of a transfer: what our program has got is the
//! beginning of what was sent, and never looks like the whole.

use std::io::Write as _;

use super::program::{is_here, speech};
use super::talk::{self, Talk};
use super::*;

#[tokio::test]
async fn a_killed_openssl_client_ends_no_stream() {
    if is_here("openssl") {
        let talk = async || Talk::with_client(openssl::s_client(&["-quiet"])).await;
        is_killed_sending(talk().await).await;
        is_killed_receiving(talk().await).await;
        is_killed_idle(talk().await).await;
    }
}

#[tokio::test]
async fn a_killed_openssl_server_ends_no_stream() {
    if is_here("openssl") {
        let talk = async || Talk::with_server(openssl::s_server(&["-quiet"])).await;
        is_killed_sending(talk().await).await;
        is_killed_receiving(talk().await).await;
        is_killed_idle(talk().await).await;
    }
}

#[tokio::test]
async fn a_killed_gnutls_client_ends_no_stream() {
    if is_here("gnutls-cli") {
        let talk = async || Talk::with_client(gnutls::gnutls_cli(&[])).await;
        is_killed_sending(talk().await).await;
        is_killed_receiving(talk().await).await;
        is_killed_idle(talk().await).await;
    }
}

#[tokio::test]
async fn a_killed_gnutls_server_ends_no_stream() {
    if !is_here("gnutls-serv") {
        return;
    }
    let mut body = tempfile::NamedTempFile::new().unwrap();
    let text = speech(MORE_THAN_BUFFERS_HOLD);
    body.write_all(&text).unwrap();
    let path = body.path().to_str().unwrap();
    let command = gnutls::gnutls_serv(&["--http", "--httpdata", path]);
    let mut talk = Talk::with_server(&command).await;
    talk::send(&mut talk.app, b"GET / HTTP/1.0\r\n\r\n").await;
    // The header's length is not of interest.
    let begin = talk::receive(&mut talk.app, SENT / 4).await;
    let body_at = begin.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    let got = begin.len() - body_at;
    assert!(begin[body_at..] == text[..got]);
    is_killed(talk, &text[got..]).await;
    is_killed_idle(Talk::with_server(&command).await).await;
}

/// What it has sent so far comes out, and nothing else.
async fn is_killed_sending(mut talk: Talk) {
    let text = speech(SENT);
    let (typed, rest) = text.split_at(SENT / 2);
    for message in typed.chunks(MESSAGE) {
        talk.hears(message, MESSAGE).await;
    }
    for message in rest[..8 * MESSAGE].chunks(MESSAGE) {
        talk.program.types(message).await;
    }
    is_killed(talk, rest).await;
}

/// Our program reads what follows, or a part of it.
async fn is_killed(mut talk: Talk, follows: &[u8]) {
    talk.program.kill();
    let (rest, end, _) = talk.breaks().await;
    assert!(follows.starts_with(&rest), "bytes that were not sent");
    assert!(rest.len() < follows.len());
    assert_cut(end);
}

/// It is sent more than it will ever read.
async fn is_killed_receiving(mut talk: Talk) {
    let sent = speech(SENT);
    talk::send(&mut talk.app, &sent[..SENT / 2]).await;
    talk.program.kill();
    let reset = program::within("the reset of what is sent", async {
        loop {
            if let Err(error) = talk.app.write_all(&sent).await {
                return error.kind();
            }
        }
    })
    .await;
    let end = program::within("the relay's end", talk.relay)
        .await
        .unwrap();
    assert_cut(end);
    let known = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(known.contains(&reset), "{reset}");
}

async fn is_killed_idle(mut talk: Talk) {
    talk.program.kill();
    let (rest, end, _) = talk.breaks().await;
    assert_eq!(rest, b"");
    assert_cut(end);
}

/// A dead process's socket ends, or resets where it had not read everything.
fn assert_cut(end: RelayEnd) {
    let known = [RelayEnd::WireTruncated, RelayEnd::WireReset];
    assert!(known.contains(&end), "{end}");
}

const SENT: usize = 2 << 20;

/// `gnutls-serv` sends at once what it can.
const MORE_THAN_BUFFERS_HOLD: usize = 32 << 20;

const MESSAGE: usize = 4000;
