//! Against OpenSSL's command-line peers: key updates, padding, tickets.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::Offer;
use crate::testing::Issued;

#[tokio::test]
async fn openssl_as_client_may_update_keys_and_pad_its_records() {
    let ca = Ca::new("mesh");
    let server = ca.mesh_tls(&Leaf::workload("b"));
    let files = Files::new(&ca, &ca.issue(&Leaf::workload("a")));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut openssl = files.openssl(
        &["s_client", "-record_padding", "512", "-connect"],
        &[&listener.local_addr().unwrap().to_string()],
    );
    let (wire, _) = listener.accept().await.unwrap();
    let mut wire = by_environment(wire);
    let accepted = accept(&server, ClientAuth::Required, &mut wire)
        .await
        .unwrap();
    assert_eq!(accepted.application_protocol, None);
    talk(&mut openssl, wire, accepted.session).await;
}

#[tokio::test]
async fn openssl_as_server_may_update_keys_and_send_tickets() {
    let ca = Ca::new("mesh");
    let client = ca.mesh_tls(&Leaf::workload("a"));
    let files = Files::new(&ca, &ca.issue(&Leaf::workload("b")));
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let mut openssl = files.openssl(
        &["s_server", "-naccept", "1", "-Verify", "1", "-accept"],
        &[&format!("127.0.0.1:{port}")],
    );
    let mut wire = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break by_environment(stream),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let connected = connect(&client, Offer::Sealwire1, &mut wire).await.unwrap();
    assert_eq!(connected.cipher, "AES-128-GCM");
    talk(&mut openssl, wire, connected.session).await;
}

/// Lines both ways, with OpenSSL's commands for key updates between them.
async fn talk(openssl: &mut Child, wire: WireSocket, session: Session) {
    let (mut app, inner) = tcp_pair(None).await;
    wire.set_linger(Some(Duration::ZERO)).unwrap();
    let relay = tokio::spawn(async move {
        relay(inner, wire, session, &Traffic::default(), &never(), &()).await
    });
    let mut stdin = openssl.stdin.take().unwrap();
    let mut stdout = openssl.stdout.take().unwrap();
    for command in ["", "k\n", "K\n", "K\n", "k\n"] {
        let command = if kernel::rx_is_stuck_with_its_key() {
            ""
        } else {
            command
        };
        // OpenSSL looks for commands at the beginning of what one read brings.
        stdin.write_all(command.as_bytes()).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        stdin.write_all(b"from openssl\n").unwrap();
        assert_eq!(read(&mut app, 13).await, b"from openssl\n");
        app.write_all(b"to openssl\n").await.unwrap();
    }
    app.shutdown().await.unwrap();
    let printed = tokio::task::spawn_blocking(move || {
        let mut printed = Vec::new();
        stdout.read_to_end(&mut printed).unwrap();
        String::from_utf8_lossy(&printed).into_owned()
    });
    let printed = timeout(Duration::from_secs(10), printed)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(printed.matches("to openssl").count(), 5, "{printed}");
    openssl.wait().unwrap();
    let end = end_of(relay).await;
    assert!(
        matches!(end, RelayEnd::Orderly | RelayEnd::WireTruncated),
        "{end}"
    );
}

/// The PEM files of one OpenSSL process.
struct Files(tempfile::TempDir);

impl Files {
    fn new(ca: &Ca, issued: &Issued) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca"), ca.pem()).unwrap();
        std::fs::write(directory.path().join("chain"), &issued.chain).unwrap();
        std::fs::write(directory.path().join("key"), &issued.key).unwrap();
        Self(directory)
    }

    fn openssl(&self, before: &[&str], after: &[&str]) -> Child {
        Command::new("openssl")
            .current_dir(self.0.path())
            .args(before)
            .args(after)
            .args(["-CAfile", "ca", "-cert", "chain", "-key", "key"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}
