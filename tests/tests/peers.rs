//! Peers that are not who they must be: refused, counted, and named in the operator's log.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::pair::PORT;
use testbed::pki::{Mesh, spiffe_id};
use testbed::{Agent, Client, IngressRule, MARKER, Pair, Running, Server, Testbed, require};

#[test]
fn without_an_agent_anybody_is_served_in_clear() -> Result<()> {
    require!();
    let bed = Testbed::new(&["outsider", "server"])?;
    let address = bed.host("server").at(PORT);
    let _serving = Server::start(bed.host("server"), &[address], "--echo")?;
    let sniffer = bed.sniff()?;
    Client::run(bed.host("outsider"), address, "--send 5000")?.assert_exact(5000, 5000);
    sniffer.finish()?.assert_saw_plaintext();
    Ok(())
}

// === at ingress ===

#[test]
fn a_client_of_the_mesh_is_served() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let good = pair.mesh.issue("outsider")?;
    let (answer, entered) = knock(&pair, &identity(&good))?;
    assert!(answer.contains(GREETING) && entered == 1, "{answer}");
    let line = pair
        .server_agent
        .access(|line| line["peer"] == spiffe_id("outsider"))?;
    assert_eq!(line["direction"], "ingress");
    Ok(())
}

#[test]
fn a_client_without_a_certificate_is_refused() -> Result<()> {
    require!("openssl");
    assert_client_refused(&Pair::start()?, &[], "peer-no-certificate")
}

#[test]
fn a_client_of_another_ca_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let foreign = foreign_mesh(&pair)?.issue("client")?;
    assert_client_refused(&pair, &identity(&foreign), "peer-unknown-issuer")
}

#[test]
fn a_client_with_an_expired_certificate_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let expired = pair.mesh.issue_expired("outsider")?;
    assert_client_refused(&pair, &identity(&expired), "peer-certificate-expired")
}

#[test]
fn a_client_with_a_certificate_of_the_future_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let future = pair.mesh.issue_not_yet_valid("outsider")?;
    assert_client_refused(&pair, &identity(&future), "peer-certificate-not-yet-valid")
}

#[test]
fn a_client_whose_name_the_rule_does_not_list_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start_with(|_, server| {
        let peers = vec!["client".to_owned()];
        server.ingress.push(IngressRule {
            port: PORT,
            mode: "mtls",
            peers,
        });
    })?;
    let unlisted = pair.mesh.issue("outsider")?;
    let line = client_refusal(&pair, &identity(&unlisted), "peer-not-allowed")?;
    assert!(
        line.to_string().contains(&spiffe_id("outsider")),
        "who was it? {line}"
    );
    let (said, _) = knock(&pair, &identity(&unlisted))?;
    assert!(
        said.contains("access denied"),
        "the peer is not told: {said}"
    );
    pair.assert_served()
}

#[test]
fn a_client_whose_certificate_names_no_workload_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let nameless = nameless(&pair)?;
    assert_client_refused(&pair, &identity(&nameless), "peer-identity-missing")
}

#[test]
fn a_client_of_tls_1_2_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let mut arguments = identity(&pair.mesh.issue("outsider")?);
    arguments.push("-tls1_2".to_owned());
    assert_client_refused(&pair, &arguments, "peer-tls-version")
}

#[test]
fn a_client_that_speaks_no_tls_is_refused() -> Result<()> {
    require!();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 3000],
        vec![0; 3000],
    ] {
        assert_bytes_refused(&Pair::start()?, &bytes, "peer-not-tls")?;
    }
    Ok(())
}

#[test]
fn a_client_that_leaves_in_mid_handshake_is_refused() -> Result<()> {
    require!();
    let hello = client_hello();
    for length in [1, 4, 5, 20, hello.len() - 1] {
        assert_bytes_refused(&Pair::start()?, &hello[..length], "truncated")?;
    }
    Ok(())
}

#[test]
fn a_client_whose_handshake_takes_too_long_is_refused() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--send 100")?;
    let hello = client_hello();
    let waited = pair.outsider().run_in_thread(|| -> Result<Duration> {
        let mut silent = TcpStream::connect(address)?;
        let mut dripping = TcpStream::connect(address)?;
        let mut drip = dripping.try_clone()?;
        let started = Instant::now();
        // A byte now and then must not prolong it.
        let dripper = thread::spawn(move || {
            for byte in hello {
                thread::sleep(Duration::from_millis(400));
                if drip.write_all(&[byte]).is_err() {
                    break;
                }
            }
        });
        for connection in [&mut silent, &mut dripping] {
            connection.set_read_timeout(Some(Duration::from_secs(15)))?;
            let end = connection.read(&mut [0; 64]);
            let timed_out = end
                .as_ref()
                .is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
            ensure!(!timed_out, "it is still open");
        }
        let waited = started.elapsed();
        dripper.join().ok().context("the dripper panicked")?;
        Ok(waited)
    })??;
    assert!(
        (9..13).contains(&waited.as_secs()),
        "closed after {waited:?}"
    );
    assert!(pair.server_agent.refusals("handshake-timeout")? >= 2);
    pair.server_agent.refusal("handshake-timeout")?;
    assert_eq!(serving.connections(), 0);
    Ok(())
}

#[test]
fn a_source_that_holds_hundreds_of_handshakes_keeps_nobody_else_waiting() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let held = pair
        .outsider()
        .run_in_thread(|| -> Result<Vec<TcpStream>> {
            (0..800).map(|_| Ok(TcpStream::connect(address)?)).collect()
        })??;
    let started = Instant::now();
    pair.assert_served()?;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    drop(held);
    Ok(())
}

// === at egress ===

#[test]
fn a_server_of_the_mesh_is_talked_to() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let good = pair.mesh.issue("outsider")?;
    let _server = openssl_server(&pair, &good, &[])?;
    let sniffer = pair.bed.sniff()?;
    let said = Client::run(pair.client(), pair.outsider().at(PORT), "--send 5000")?;
    assert_eq!((said.sent, said.send_error), (5000, None));
    sniffer.finish()?.assert_only_ciphertext(5000);
    let line = pair
        .client_agent
        .access(|line| line["peer"] == spiffe_id("outsider"))?;
    assert_eq!(line["direction"], "egress");
    Ok(())
}

#[test]
fn a_server_of_another_ca_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let foreign = foreign_mesh(&pair)?.issue("server")?;
    assert_server_refused(&pair, &foreign, &[], "peer-unknown-issuer")
}

#[test]
fn a_server_with_an_expired_certificate_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let expired = pair.mesh.issue_expired("outsider")?;
    assert_server_refused(&pair, &expired, &[], "peer-certificate-expired")
}

#[test]
fn a_server_with_a_certificate_of_the_future_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let future = pair.mesh.issue_not_yet_valid("outsider")?;
    assert_server_refused(&pair, &future, &[], "peer-certificate-not-yet-valid")
}

#[test]
fn a_server_whose_name_the_rule_does_not_list_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start_with(|client, _| client.egress_peers = vec!["server".to_owned()])?;
    let unlisted = pair.mesh.issue("outsider")?;
    assert_server_refused(&pair, &unlisted, &[], "peer-not-allowed")?;
    pair.assert_served()
}

#[test]
fn a_server_whose_certificate_names_no_workload_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let nameless = nameless(&pair)?;
    assert_server_refused(&pair, &nameless, &[], "peer-identity-missing")
}

#[test]
fn a_server_of_tls_1_2_is_refused() -> Result<()> {
    require!("openssl");
    let pair = Pair::start()?;
    let good = pair.mesh.issue("outsider")?;
    let refusal = server_refusal(&pair, &good, &["-tls1_2"])?;
    // Which side says it first depends on the server.
    let reason = refusal["reason"].as_str().unwrap_or_default();
    assert!(
        ["peer-tls-version", "peer-alert"].contains(&reason),
        "{refusal}"
    );
    Ok(())
}

#[test]
fn a_server_that_speaks_no_tls_is_refused() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.outsider().at(PORT);
    let _plain = Server::start(pair.outsider(), &[address], "--send 4000")?;
    assert_egress_refused(&pair, "peer-not-tls")
}

#[test]
fn a_server_that_leaves_in_mid_handshake_is_refused() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.outsider().at(PORT);
    // Hears the client's hello, then ends without a word.
    let _mute = Server::start(
        pair.outsider(),
        &[address],
        "--no-half-close --stop-after 1",
    )?;
    let line = egress_refusal(&pair)?;
    let reason = line["reason"].as_str().unwrap_or_default();
    assert!(["truncated", "dial-refused"].contains(&reason), "{line}");
    Ok(())
}

#[test]
fn a_server_that_never_answers_is_given_up() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.outsider().at(PORT);
    let _silent = Server::start(pair.outsider(), &[address], "--no-half-close")?;
    let client = Client::start(pair.client(), address, "--send 3000")?;
    let closed = client.closed()?;
    assert!(closed.was_reset(), "{closed:?}");
    assert!((9_000..13_000).contains(&closed.milliseconds), "{closed:?}");
    pair.client_agent.refusal("handshake-timeout")?;
    Ok(())
}

#[test]
fn a_server_that_is_not_there_is_a_refused_connection() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.outsider().at(PORT);
    let first = Client::start(pair.client(), address, "--send 3000")?;
    match first.outcome()? {
        Err((errno, _)) => assert_eq!(errno, "ECONNREFUSED"),
        Ok(_) => assert!(first.closed()?.was_reset()),
    }
    pair.client_agent.refusal("dial-refused")?;
    assert_refused_by_connect(&pair, address)
}

#[test]
fn a_destination_that_the_rules_deny_is_refused() -> Result<()> {
    require!();
    let pair = Pair::start_with(|client, _| {
        client
            .egress
            .push(testbed::EgressRule::to("10.77.0.2/32", "deny").at(PORT));
    })?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let client = Client::start(pair.client(), address, "--send 3000")?;
    match client.outcome()? {
        Err((errno, _)) => assert_eq!(errno, "ECONNREFUSED"),
        Ok(_) => assert!(client.closed()?.was_reset()),
    }
    pair.client_agent.refusal("denied-by-rule")?;
    assert_refused_by_connect(&pair, address)?;
    assert_eq!(serving.connections(), 0);
    Ok(())
}

// === helpers ===

/// The destination is known to refuse by now, and connect says so itself.
fn assert_refused_by_connect(pair: &Pair, address: SocketAddr) -> Result<()> {
    let again = Client::try_connect(pair.client(), address, "")?;
    let (errno, after) = again.expect_err("it refuses");
    assert_eq!(errno, "ECONNREFUSED");
    assert!(after < Duration::from_millis(100), "{after:?}");
    pair.client_agent.wait_for("it is not counted", |agent| {
        Ok(agent.refusals("refused-recently")? > 0)
    })
}

/// A program behind the server's agent greets whoever gets through to it; what `openssl s_client`
/// with these arguments heard on the host outside, and how many connections the program saw.
fn knock(pair: &Pair, arguments: &[String]) -> Result<(String, usize)> {
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--send 100")?;
    let sniffer = pair.bed.sniff()?;
    let ca = pair.mesh.ca_file();
    let command = pair
        .outsider()
        .command("openssl")
        .args(["s_client", "-quiet", "-connect", &address.to_string()])
        .arg("-CAfile")
        .arg(ca)
        .args(arguments);
    let finished = command.run(Duration::from_secs(8))?;
    sniffer.finish()?.assert_no_plaintext();
    Ok((
        finished.text() + &finished.stderr_text(),
        serving.connections(),
    ))
}

fn client_refusal(pair: &Pair, arguments: &[String], reason: &str) -> Result<Value> {
    let (answer, entered) = knock(pair, arguments)?;
    assert!(!answer.contains(GREETING), "it was served: {answer}");
    assert_eq!(entered, 0, "the program was connected to");
    assert_refusal(&pair.server_agent, "ingress", reason)
}

fn assert_client_refused(pair: &Pair, arguments: &[String], reason: &str) -> Result<()> {
    client_refusal(pair, arguments, reason)?;
    pair.assert_served() // and others are not disturbed
}

fn assert_bytes_refused(pair: &Pair, bytes: &[u8], reason: &str) -> Result<()> {
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--send 100")?;
    let answer = pair.outsider().run_in_thread(|| -> Result<Vec<u8>> {
        let mut connection = TcpStream::connect(address)?;
        connection.set_read_timeout(Some(Duration::from_secs(8)))?;
        connection.write_all(bytes)?;
        let _ = connection.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        match connection.read_to_end(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(answer),
        }
    })??;
    let heard = String::from_utf8_lossy(&answer);
    assert!(!heard.contains(GREETING), "it was served");
    assert!(answer.len() <= 64, "more than an alert: {heard}");
    assert_eq!(serving.connections(), 0, "the program was connected to");
    assert_refusal(&pair.server_agent, "ingress", reason).map(drop)
}

fn assert_server_refused(pair: &Pair, dir: &Path, arguments: &[&str], reason: &str) -> Result<()> {
    let refusal = server_refusal(pair, dir, arguments)?;
    assert_eq!(refusal["reason"], reason, "{refusal}");
    assert!(pair.client_agent.refusals(reason)? > 0);
    Ok(())
}

fn server_refusal(pair: &Pair, dir: &Path, arguments: &[&str]) -> Result<Value> {
    let _server = openssl_server(pair, dir, arguments)?;
    egress_refusal(pair)
}

fn assert_egress_refused(pair: &Pair, reason: &str) -> Result<()> {
    let refusal = egress_refusal(pair)?;
    assert_eq!(refusal["reason"], reason, "{refusal}");
    assert!(pair.client_agent.refusals(reason)? > 0);
    Ok(())
}

/// The log line about the client's connection to the host outside, which its program sees reset.
fn egress_refusal(pair: &Pair) -> Result<Value> {
    let sniffer = pair.bed.sniff()?;
    let closed = Client::run(pair.client(), pair.outsider().at(PORT), "--send 3000")?;
    assert!(closed.was_reset(), "{closed:?}");
    assert_eq!(closed.received, 0, "{closed:?}");
    sniffer
        .finish()?
        .assert_no_plaintext_from(pair.client().v4());
    pair.client_agent
        .refused(|line| line["direction"] == "egress")
}

fn assert_refusal(agent: &Agent, direction: &str, reason: &str) -> Result<Value> {
    let line = agent.refusal(reason)?;
    assert_eq!(line["direction"], direction, "{line}");
    assert!(
        line["detail"]
            .as_str()
            .is_some_and(|detail| !detail.is_empty()),
        "{line}"
    );
    Ok(line)
}

/// `openssl s_server` outside, which asks for a certificate of the mesh.
fn openssl_server(pair: &Pair, dir: &Path, arguments: &[&str]) -> Result<Running> {
    let server = pair
        .outsider()
        .command("openssl")
        .args([
            "s_server",
            "-accept",
            &PORT.to_string(),
            "-Verify",
            "3",
            "-CAfile",
        ])
        .arg(pair.mesh.ca_file())
        .args(["-cert_chain".into(), dir.join("certChain.pem")])
        .args(identity(dir))
        .args(arguments)
        .with_stdin() // it ends with its input
        .spawn()?;
    server.wait_for(Duration::from_secs(5), |line| {
        line.contains("ACCEPT").then_some(())
    })?;
    Ok(server)
}

fn identity(dir: &Path) -> Vec<String> {
    let file = |name| dir.join(name).display().to_string();
    vec![
        "-cert".to_owned(),
        file("certChain.pem"),
        "-key".to_owned(),
        file("key.pem"),
    ]
}

fn foreign_mesh(pair: &Pair) -> Result<Mesh> {
    Mesh::new(&pair.bed.directory().join("foreign"))
}

/// A certificate that the mesh CA signed, with a DNS name but no SPIFFE ID.
fn nameless(pair: &Pair) -> Result<PathBuf> {
    let dir = pair.bed.directory().join("nameless");
    fs::create_dir(&dir)?;
    fs::write(dir.join("ca-key.pem"), pair.mesh.ca_key())?;
    fs::write(dir.join("extensions"), "subjectAltName = DNS:outsider\n")?;
    fs::copy(pair.mesh.ca_file(), dir.join("mesh-ca.pem"))?;
    openssl(
        &dir,
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem \
         -subj /CN=outsider -out request.pem",
    )?;
    openssl(
        &dir,
        "x509 -req -in request.pem -CA mesh-ca.pem -CAkey ca-key.pem -days 1 -set_serial 4711 \
         -extfile extensions -out certChain.pem",
    )?;
    Ok(dir)
}

fn openssl(dir: &Path, arguments: &str) -> Result<()> {
    let output = Command::new("openssl")
        .current_dir(dir)
        .args(arguments.split_whitespace())
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The start of a handshake of TLS 1.3 as RFC 8446 wants it, but for its key share, which no one
/// gets to see.
fn client_hello() -> Vec<u8> {
    let extensions: &[&[u8]] = &[
        &[0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x04], // supported_versions: TLS 1.3
        &[0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17], // supported_groups: secp256r1
        &[0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03], // signature_algorithms
        &[0x00, 0x33, 0x00, 0x02, 0x00, 0x00],       // key_share: none yet
    ];
    let extensions = extensions.concat();
    let mut hello = vec![0x03, 0x03];
    hello.extend([7; 32]);
    hello.extend([0x00, 0x00, 0x02, 0x13, 0x01, 0x01, 0x00]);
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend((hello.len() as u16 + 4).to_be_bytes());
    record.extend([0x01, 0x00]);
    record.extend((hello.len() as u16).to_be_bytes());
    record.extend(hello);
    record
}

/// The start of what a program behind the agent says.
const GREETING: &str = match std::str::from_utf8(MARKER) {
    Ok(marker) => marker,
    Err(_) => "the marker is ASCII",
};
