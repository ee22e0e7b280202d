//! Against OpenSSL's command-line peers in both roles: tickets, key updates, renegotiation, plaintext
//! in mid-stream, the sizes of records.

use std::process::Command;

use super::program::{self, STDERR, is_here, lines_with};
use super::talk::{self, Talk};
use super::*;

#[tokio::test]
async fn openssl_as_client_may_update_keys() {
    if is_here("openssl") {
        let padded = s_client(&["-quiet", "-no_ign_eof", "-record_padding", "512"]);
        updates_keys(Talk::with_client(padded).await, UNDER_THE_NEW_KEY).await;
    }
}

#[tokio::test]
async fn openssl_as_server_may_update_keys() {
    if is_here("openssl") {
        updates_keys(Talk::with_server(s_server(&[])).await, &[]).await;
    }
}

/// By the commands that both of them have: `k` without and `K` with a request for ours. `behind` is
/// what it takes for the message to leave.
async fn updates_keys(mut talk: Talk, behind: &[u8]) {
    talk.exchanges_lines(0).await;
    let mut answers = 0;
    for (number, command) in (1..).zip(["k\n", "K\n", "K\n", "k\n"]) {
        talk.program.types(command.as_bytes()).await;
        if kernel::rx_is_stuck_with_its_key() {
            return is_ended_by_a_key_update(talk, behind).await;
        }
        talk.exchanges_lines(number).await;
        if command == "K\n" && !kernel::tx_is_stuck_with_its_key() {
            answers += 1;
        }
        let messages = talk.program.file(MESSAGES);
        let sent = lines_with(&messages, SENT_KEY_UPDATE);
        assert_eq!(sent, number as usize);
        assert_eq!(lines_with(&messages, RECEIVED_KEY_UPDATE), answers);
    }
    talk.leaves().await.ends().await;
}

#[tokio::test]
async fn openssl_may_update_keys_after_bulk() {
    if !is_here("openssl") {
        return;
    }
    for requested in [false, true] {
        let mut talk = Talk::with_client(s_client(&["-quiet", "-no_ign_eof"])).await;
        talk.exchanges(6 << 20, CLIENT_READ).await;
        let is_stuck = |flow| talk.seen.count(flow) > 0 && kernel::capabilities().rekey().is_err();
        let (tx_is_stuck, rx_is_stuck) = (is_stuck("tx"), is_stuck("rx"));
        talk.program
            .types(if requested { b"K\n" } else { b"k\n" })
            .await;
        if rx_is_stuck {
            is_ended_by_a_key_update(talk, UNDER_THE_NEW_KEY).await;
            continue;
        }
        talk.exchanges(1 << 20, CLIENT_READ).await;
        let messages = talk.program.file(MESSAGES);
        assert_eq!(lines_with(&messages, SENT_KEY_UPDATE), 1);
        let answers = usize::from(requested && !tx_is_stuck);
        assert_eq!(lines_with(&messages, RECEIVED_KEY_UPDATE), answers);
        talk.leaves().await.ends().await;
    }
}

/// Whether OpenSSL reads our alert depends on whether it can still write what goes behind its message;
/// that the alert is sent, [`kernel::a_key_update_ends_the_connection`] shows.
async fn is_ended_by_a_key_update(talk: Talk, behind: &[u8]) {
    if !behind.is_empty() {
        talk.program.types(behind).await;
    }
    let (rest, end, program) = talk.breaks().await;
    assert_eq!((rest.as_slice(), end), (&b""[..], RelayEnd::KeyUpdate));
    if behind.is_empty() {
        let alert = "<<< TLS 1.3, Alert [length 0002], fatal internal_error";
        program.logs(MESSAGES, alert, 1).await;
    }
}

#[tokio::test]
async fn openssl_as_server_may_send_many_tickets() {
    if !is_here("openssl") {
        return;
    }
    for tickets in [0, 2, 20] {
        let mut talk = Talk::with_server(s_server(&["-num_tickets", &tickets.to_string()])).await;
        talk.exchanges_lines(0).await;
        let messages = talk.program.file(MESSAGES);
        assert_eq!(lines_with(&messages, "NewSessionTicket"), tickets);
        talk.leaves().await.ends().await;
    }
}

/// Having found none it gives up, in order.
#[tokio::test]
async fn openssl_as_client_finds_no_renegotiation() {
    if !is_here("openssl") {
        return;
    }
    let mut talk = Talk::with_client(s_client(&["-quiet", "-no_ign_eof"])).await;
    talk.exchanges_lines(0).await;
    talk.program.types(b"R\n").await;
    let program = talk.leaves_second().await;
    program.logs(STDERR, "wrong ssl version", 1).await;
}

/// `r` and `R` renegotiate, `c` asks for a certificate after the handshake.
#[tokio::test]
async fn openssl_as_server_finds_no_renegotiation_and_goes_on() {
    if !is_here("openssl") {
        return;
    }
    let mut talk = Talk::with_server(s_server(&[])).await;
    talk.exchanges_lines(0).await;
    for (number, command) in (1..).zip(["r\n", "R\n", "c\n"]) {
        talk.program.types(command.as_bytes()).await;
        talk.exchanges_lines(number).await;
    }
    let program = talk.leaves().await;
    program.logs(STDERR, "wrong ssl version", 2).await;
    program.logs(STDERR, "extension not received", 1).await;
}

/// `Q` sends `close_notify` and closes.
#[tokio::test]
async fn openssl_as_client_may_leave_first() {
    if !is_here("openssl") {
        return;
    }
    let mut talk = Talk::with_client(s_client(&["-quiet", "-no_ign_eof"])).await;
    talk.exchanges_lines(0).await;
    talk.program.types(b"Q\n").await;
    talk.leaves_second().await.ends().await;
}

/// `Q` closes the socket and nothing else.
#[tokio::test]
async fn openssl_as_server_may_not_leave_without_close_notify() {
    if !is_here("openssl") {
        return;
    }
    let mut talk = Talk::with_server(s_server(&[])).await;
    talk.exchanges_lines(0).await;
    talk.program.types(b"Q\n").await;
    let (rest, end, _) = talk.breaks().await;
    assert_eq!((rest.as_slice(), end), (&b""[..], RelayEnd::WireTruncated));
}

/// `P` writes past its own TLS: "Lets print some clear text". Behind it OpenSSL seals the command
/// itself, and whether it reads our alert depends on whether that can still be written.
#[tokio::test]
async fn plaintext_of_openssl_in_mid_stream_is_refused() {
    if !is_here("openssl") {
        return;
    }
    let mut talk = Talk::with_server(s_server(&[])).await;
    talk.exchanges_lines(0).await;
    talk.program.types(b"P\n").await;
    let (rest, end, _) = talk.breaks().await;
    assert_eq!(rest, b"");
    let error = if kernel::opens() {
        // Of what the kernel looks at the length comes first.
        RecordError::TooLong
    } else {
        RecordError::UnexpectedContentType(b'L')
    };
    assert_eq!(end, RelayEnd::BadRecord(error));
}

#[tokio::test]
async fn records_of_one_byte_pass_in_both_directions() {
    if !is_here("openssl") {
        return;
    }
    for (index, mut talk) in quiet_peers(&[]).await.into_iter().enumerate() {
        let text = program::speech(300);
        for byte in text.chunks(1) {
            talk.hears(byte, 1).await;
            talk::send(&mut talk.app, byte).await;
            assert_eq!(talk.program.prints(1).await, byte);
        }
        let messages = talk.program.file(MESSAGES);
        for direction in [SENT, RECEIVED] {
            let records = data_records(&messages, direction);
            assert_eq!(
                records,
                [1 + OVERHEAD - HEADER_LEN; 300],
                "{index} {direction}"
            );
        }
        talk.leaves().await.ends().await;
    }
}

#[tokio::test]
async fn full_records_pass_in_both_directions() {
    if !is_here("openssl") {
        return;
    }
    let full = MAX_PLAINTEXT_LEN + OVERHEAD - HEADER_LEN;
    let mut talk = Talk::with_server(s_server(&["-quiet"])).await;
    talk.exchanges(2 << 20, MAX_PLAINTEXT_LEN).await;
    let messages = talk.program.file(MESSAGES);
    assert_eq!(data_records(&messages, SENT), [full; 128]);
    let received = data_records(&messages, RECEIVED);
    assert!(received.contains(&full), "{received:?}");
    talk.leaves().await.ends().await;
}

#[tokio::test]
async fn small_and_padded_records_of_openssl_arrive() {
    if !is_here("openssl") {
        return;
    }
    let tag = OVERHEAD - HEADER_LEN - 1;
    for (option, value, lens) in [
        ("-max_send_frag", "512", vec![512 + 1 + tag]),
        (
            "-split_send_frag",
            "700",
            vec![700 + 1 + tag, CLIENT_READ % 700 + 1 + tag],
        ),
        ("-record_padding", "3000", vec![9000 + tag]),
        ("-record_padding", "16384", vec![MAX_PLAINTEXT_LEN + tag]),
    ] {
        for mut talk in quiet_peers(&[option, value]).await {
            talk.exchanges(1 << 19, CLIENT_READ).await;
            let sent = data_records(&talk.program.file(MESSAGES), SENT);
            assert!(!sent.is_empty());
            for len in sent {
                assert!(lens.contains(&len), "{option} {value}: {len}");
            }
            talk.leaves().await.ends().await;
        }
    }
}

/// Both roles, each printing only what it is sent.
async fn quiet_peers(arguments: &[&str]) -> [Talk; 2] {
    let arguments = [&["-quiet"], arguments].concat();
    [
        Talk::with_client(s_client(&arguments)).await,
        Talk::with_server(s_server(&arguments)).await,
    ]
}

pub(super) fn s_client(arguments: &[&str]) -> impl Fn(u16) -> Command + use<> {
    openssl(&[&["s_client", "-connect"], arguments].concat())
}

pub(super) fn s_server(arguments: &[&str]) -> impl Fn(u16) -> Command + use<> {
    let server = ["s_server", "-accept"];
    let verify = ["-naccept", "1", "-Verify", "1", "-verify_return_error"];
    openssl(&[&server, arguments, &verify].concat())
}

/// The address follows the first two arguments.
fn openssl(arguments: &[&str]) -> impl Fn(u16) -> Command + use<> {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    move |port| {
        let mut command = Command::new("openssl");
        command
            .args(&arguments[..2])
            .arg(format!("127.0.0.1:{port}"))
            .args(&arguments[2..])
            .args(["-CAfile", "ca", "-cert", "chain", "-key", "key"])
            .args(["-msg", "-msgfile", MESSAGES]);
        command
    }
}

/// The lengths of the records with data that OpenSSL tells of, in its order:
///
/// ```text
/// >>> TLS 1.2, RecordHeader [length 0005]
///     17 03 03 00 12
/// >>> TLS 1.2, InnerContent [length 0001]
///     17
/// ```
fn data_records(messages: &str, direction: &str) -> Vec<usize> {
    let mut lens = Vec::new();
    let mut len = 0;
    let mut lines = messages.lines();
    while let Some(line) = lines.next() {
        if !line.starts_with(direction) {
            continue;
        }
        if line.contains("RecordHeader") {
            let header = lines.next().unwrap().replace(' ', "");
            len = usize::from_str_radix(&header[6..], 16).unwrap();
        } else if line.contains("InnerContent") && lines.next().unwrap().trim() == "17" {
            lens.push(len);
        }
    }
    lens
}

/// Where OpenSSL tells of its messages.
const MESSAGES: &str = "messages";
const SENT: &str = ">>>";
const RECEIVED: &str = "<<<";
const SENT_KEY_UPDATE: &str = ">>> TLS 1.3, Handshake [length 0005], KeyUpdate";
const RECEIVED_KEY_UPDATE: &str = "<<< TLS 1.3, Handshake [length 0005], KeyUpdate";

/// `s_client` sends a `KeyUpdate` with what it sends next, `s_server` at once: what it then writes may
/// meet our reset before it has read our alert.
const UNDER_THE_NEW_KEY: &[u8] = b"under the new key\n";

/// What `s_client` reads at once, and seals as one; `s_server` reads a full record.
const CLIENT_READ: usize = 8192;
