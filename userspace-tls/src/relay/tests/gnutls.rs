//! Against the command-line peers of `GnuTLS` in both roles: tickets, key updates, renegotiation, small
//! records, bulk.

use std::process::Command;

use super::program::{self, STDERR, is_here, lines_with};
use super::talk::{self, Talk};
use super::*;

#[tokio::test]
async fn gnutls_as_client_may_update_keys_and_asks_in_vain_for_renegotiation() {
    if !is_here("gnutls-cli") {
        return;
    }
    let mut talk = Talk::with_client(gnutls_cli(&["--inline-commands"])).await;
    exchanges_messages(&mut talk, 0).await;
    let mut answers = 0;
    // `rekey` asks for ours as well.
    for (number, (command, requests)) in
        (1..).zip([("rekey1", 0), ("rekey", 1), ("rekey", 1), ("rekey1", 0)])
    {
        talk.program
            .types(format!("^{command}^\n").as_bytes())
            .await;
        talk.program.logs(STDERR, SENT_KEY_UPDATE, number).await;
        if kernel::rx_is_stuck_with_its_key() {
            return is_ended_by_a_key_update(talk).await;
        }
        exchanges_messages(&mut talk, number).await;
        if !kernel::tx_is_stuck_with_its_key() {
            answers += requests;
        }
        let told = talk.program.file(STDERR);
        assert_eq!(lines_with(&told, SENT_KEY_UPDATE), number);
        assert_eq!(lines_with(&told, RECEIVED_KEY_UPDATE), answers);
    }
    talk.program.types(b"^renegotiate^\n").await;
    exchanges_messages(&mut talk, 5).await;
    talk.program.types(b"").await;
    let mut program = talk.leaves_second().await;
    program.ends().await;
    // No message comes of a renegotiation in TLS 1.3.
    let told = program.file(LOG);
    assert_eq!(lines_with(&told, "- Rekey was completed"), 4);
    assert_eq!(lines_with(&told, "- ReHandshake was completed"), 1);
}

async fn is_ended_by_a_key_update(talk: Talk) {
    let (rest, end, mut program) = talk.breaks().await;
    assert_eq!((rest.as_slice(), end), (&b""[..], RelayEnd::KeyUpdate));
    program.ends().await;
    program
        .logs(LOG, "*** Received alert [80]: Internal error", 1)
        .await;
}

#[tokio::test]
async fn gnutls_as_server_sends_tickets_and_key_updates() {
    if !is_here("gnutls-serv") {
        return;
    }
    let mut talk = Talk::with_server(gnutls_serv(&["--echo"])).await;
    is_echoed(&mut talk, b"before\n").await;
    let told = talk.program.file(STDERR);
    assert_eq!(lines_with(&told, "NEW SESSION TICKET was queued"), 2);
    for number in 1..=3 {
        // A command of the server's, that comes over the connection. Its answer is under the new key.
        talk::send(&mut talk.app, b"**REHANDSHAKE**\n").await;
        if kernel::rx_is_stuck_with_its_key() {
            return is_ended_at_the_server(talk).await;
        }
        let answer = b"Successfully executed command\n";
        assert_eq!(talk::receive(&mut talk.app, answer.len()).await, answer);
        is_echoed(&mut talk, b"after\n").await;
        let told = talk.program.file(STDERR);
        assert_eq!(lines_with(&told, "sending key update (1)"), number);
        let answers = if kernel::tx_is_stuck_with_its_key() {
            0
        } else {
            number
        };
        assert_eq!(lines_with(&told, RECEIVED_KEY_UPDATE), answers);
    }
    talk.leaves().await;
}

async fn is_ended_at_the_server(talk: Talk) {
    let (rest, end, _program) = talk.breaks().await;
    assert_eq!((rest.as_slice(), end), (&b""[..], RelayEnd::KeyUpdate));
}

/// Which takes us at our word: we have not said that we could.
#[tokio::test]
async fn gnutls_as_server_may_not_authenticate_again_and_says_so() {
    if !is_here("gnutls-serv") {
        return;
    }
    let mut talk = Talk::with_server(gnutls_serv(&["--echo"])).await;
    is_echoed(&mut talk, b"before\n").await;
    talk::send(&mut talk.app, b"**REAUTH**\n").await;
    let (rest, end, _) = talk.breaks().await;
    let internal_error = RelayEnd::PeerAlert(Alert::INTERNAL_ERROR);
    assert_eq!((rest.as_slice(), end), (&b""[..], internal_error));
}

#[tokio::test]
async fn bytes_of_gnutls_as_client_are_exact_in_records_of_each_size() {
    if !is_here("gnutls-cli") {
        return;
    }
    for (arguments, message) in [
        (&[][..], 700),
        // It sends one record of what it has read, and forgets the rest.
        (&["--recordsize", "512"], 512),
        (&[], CLIENT_READ),
    ] {
        let mut talk = Talk::with_client(gnutls_cli(arguments)).await;
        talk.exchanges(1 << 19, message).await;
        for byte in program::speech(100).chunks(1) {
            talk.hears(byte, 1).await;
            talk::send(&mut talk.app, byte).await;
            assert_eq!(talk.program.prints(1).await, byte);
        }
        talk.program.types(b"").await;
        talk.leaves_second().await.ends().await;
    }
}

/// It closes when it reads our end, and says nothing.
#[tokio::test]
async fn gnutls_as_client_may_not_leave_without_close_notify() {
    if !is_here("gnutls-cli") {
        return;
    }
    let mut talk = Talk::with_client(gnutls_cli(&[])).await;
    exchanges_messages(&mut talk, 0).await;
    talk.app.shutdown().await.unwrap();
    let (rest, end, _) = talk.breaks().await;
    assert_eq!((rest.as_slice(), end), (&b""[..], RelayEnd::WireTruncated));
}

#[tokio::test]
async fn bytes_of_gnutls_as_server_are_exact() {
    if !is_here("gnutls-serv") {
        return;
    }
    let mut talk = Talk::with_server(gnutls_serv(&["--echo"])).await;
    for line in program::speech(100_000).chunks(997) {
        is_echoed(&mut talk, &[line, b"\n"].concat()).await;
    }
    talk.leaves().await;

    let file = tempfile::NamedTempFile::new().unwrap();
    let body = noise(8 << 20);
    std::fs::write(file.path(), &body).unwrap();
    let path = file.path().to_str().unwrap();
    let mut talk = Talk::with_server(gnutls_serv(&["--http", "--httpdata", path])).await;
    talk::send(&mut talk.app, b"GET / HTTP/1.0\r\n\r\n").await;
    let mut answer = Vec::new();
    let end = talk.app.read_to_end(&mut answer);
    program::within("the whole answer", end).await.unwrap();
    assert!(answer.ends_with(&body));
    talk.leaves_second().await;
}

async fn exchanges_messages(talk: &mut Talk, number: usize) {
    talk.hears(format!("from there {number}\n").as_bytes(), CLIENT_READ)
        .await;
    let message = format!("from here {number}\n");
    talk::send(&mut talk.app, message.as_bytes()).await;
    assert_eq!(talk.program.prints(message.len()).await, message.as_bytes());
}

async fn is_echoed(talk: &mut Talk, line: &[u8]) {
    talk::send(&mut talk.app, line).await;
    let echo = talk::receive(&mut talk.app, line.len()).await;
    assert!(echo == line, "an echo of other bytes");
}

pub(super) fn gnutls_cli(arguments: &[&str]) -> impl Fn(u16) -> Command + use<> {
    let host = [
        "--verify-hostname",
        "leaf.example",
        "--logfile",
        LOG,
        "127.0.0.1",
    ];
    gnutls("gnutls-cli", &[arguments, &host].concat())
}

pub(super) fn gnutls_serv(arguments: &[&str]) -> impl Fn(u16) -> Command + use<> {
    let verify = ["--require-client-cert", "--verify-client-cert"];
    gnutls("gnutls-serv", &[arguments, &verify].concat())
}

fn gnutls(program: &'static str, arguments: &[&str]) -> impl Fn(u16) -> Command + use<> {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    move |port| {
        let mut command = Command::new(program);
        command
            .args(["--port", &port.to_string(), "--debug", "4"])
            .args(["--x509cafile", "ca"])
            .args(["--x509certfile", "chain", "--x509keyfile", "key"])
            .args(&arguments);
        command
    }
}

/// Where `gnutls-cli` tells of itself.
const LOG: &str = "log";

const SENT_KEY_UPDATE: &str = "KEY_UPDATE was queued";
const RECEIVED_KEY_UPDATE: &str = "KEY_UPDATE (24) was received";

/// A little less than `gnutls-cli` reads at once.
const CLIENT_READ: usize = 4000;
