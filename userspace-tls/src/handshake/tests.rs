use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpListener;

use super::*;
use crate::Offer;
use crate::alert::Alert;
use crate::refusal::HandshakeRefusal;
use crate::testing::{Ca, Leaf, spiffe_id};

mod assurance;
mod rotation;

#[tokio::test]
async fn two_agents_agree_on_the_preferred_parameters_and_know_each_other() {
    let ca = Ca::new("mesh");
    let (client, server) = (
        ca.mesh_tls(&Leaf::workload("a")),
        ca.mesh_tls(&Leaf::workload("b")),
    );
    let (connected, accepted) = handshake(&client, &server, ClientAuth::Required).await;
    let (connected, accepted) = (connected.unwrap(), accepted.unwrap());
    assert_eq!(connected.peer, Some(spiffe_id("b")));
    assert_eq!(accepted.peer, Some(spiffe_id("a")));
    for end in [&connected, &accepted] {
        assert_eq!(end.application_protocol, Some(Alpn::Sealwire1));
        assert_eq!(end.cipher, "AES-128-GCM");
        assert_eq!(end.key_exchange, KeyExchange::X25519MlKem768);
        assert_eq!(end.session.records_per_key, 1 << 24);
    }
}

#[tokio::test]
async fn not_one_byte_behind_the_handshake_is_taken() {
    let ca = Ca::new("mesh");
    let (client, server) = (
        ca.mesh_tls(&Leaf::workload("a")),
        ca.mesh_tls(&Leaf::workload("b")),
    );
    let (mut near, mut far) = duplex(1 << 20);
    let client = async {
        connect(&client, Offer::Sealwire1, &mut near).await.unwrap();
        near.write_all(b"behind").await.unwrap();
        near.shutdown().await.unwrap();
    };
    let server = async {
        // The flight that ends the handshake arrives together with what follows it.
        tokio::task::yield_now().await;
        accept(&server, ClientAuth::Required, &mut far)
            .await
            .unwrap();
        let mut behind = Vec::new();
        far.read_to_end(&mut behind).await.unwrap();
        assert_eq!(behind, b"behind");
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn foreign_clients_are_served_whatever_alpn_they_offer() {
    let ca = Ca::new("mesh");
    let server = ca.mesh_tls(&Leaf::workload("b"));
    for alpn in [&[][..], &[b"h2".to_vec(), b"http/1.1".to_vec()]] {
        let (mut near, mut far) = duplex(1 << 20);
        let client = foreign_client(&ca, alpn, &mut near);
        let (accepted, ()) = tokio::join!(accept(&server, ClientAuth::Optional, &mut far), client);
        let accepted = accepted.unwrap();
        assert_eq!(accepted.application_protocol, None);
        assert_eq!(accepted.peer, None);
    }
}

#[tokio::test]
async fn a_client_without_certificate_is_refused_and_told_so() {
    let ca = Ca::new("mesh");
    let server = ca.mesh_tls(&Leaf::workload("b"));
    let (mut near, mut far) = duplex(1 << 20);
    let client = foreign_client(&ca, &[], &mut near);
    let (accepted, ()) = tokio::join!(accept(&server, ClientAuth::Required, &mut far), client);
    assert_eq!(
        accepted.unwrap_err().reason(),
        HandshakeRefusal::PeerNoCertificate
    );
    let mut alert = [0; 64];
    let len = near.read(&mut alert).await.unwrap();
    assert_eq!(len, 5 + 2 + 1 + 16, "one encrypted alert");
}

#[tokio::test]
async fn a_certificate_of_a_foreign_ca_is_refused_on_both_sides() {
    let error = refused_both_ways(|ca| {
        let foreign = Ca::new("foreign");
        ca.mesh_tls_of(&foreign.issue(&Leaf::workload("x")))
    })
    .await;
    assert_eq!(error[0].reason(), HandshakeRefusal::PeerUnknownIssuer);
    assert_eq!(error[1].reason(), HandshakeRefusal::PeerUnknownIssuer);
    assert!(error[0].to_string().contains("CN=foreign"), "{}", error[0]);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_both_sides() {
    let leaf = Leaf {
        from: -Duration::DAY * 2,
        until: -Duration::DAY,
        ..Leaf::workload("x")
    };
    for error in refused_both_ways(|ca| ca.mesh_tls(&leaf)).await {
        assert_eq!(
            error.reason(),
            HandshakeRefusal::PeerCertificateExpired,
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_yet_valid_is_refused_on_both_sides() {
    let leaf = Leaf {
        from: Duration::DAY,
        until: Duration::DAY * 2,
        ..Leaf::workload("x")
    };
    for error in refused_both_ways(|ca| ca.mesh_tls(&leaf)).await {
        assert_eq!(
            error.reason(),
            HandshakeRefusal::PeerCertificateNotYetValid,
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_certificate_without_exactly_one_spiffe_id_is_refused_on_both_sides() {
    let one = spiffe_id("x").to_string();
    for uris in [
        vec![],
        vec!["https://mesh.example/x".to_owned()],
        vec![one.clone(), one],
    ] {
        let leaf = Leaf {
            uris,
            ..Leaf::workload("x")
        };
        for error in refused_both_ways(|ca| ca.mesh_tls(&leaf)).await {
            assert_eq!(
                error.reason(),
                HandshakeRefusal::PeerIdentityMissing,
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_certificate_for_the_other_purpose_is_refused() {
    let ca = Ca::new("mesh");
    let good = ca.mesh_tls(&Leaf::workload("a"));
    let server_only = ca.mesh_tls(&Leaf {
        usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        ..Leaf::workload("x")
    });
    let (_, accepted) = handshake(&server_only, &good, ClientAuth::Required).await;
    assert_eq!(
        accepted.unwrap_err().reason(),
        HandshakeRefusal::PeerCertificateInvalid
    );
    let (connected, _) = handshake(&good, &server_only, ClientAuth::Required).await;
    connected.unwrap();
}

#[tokio::test]
async fn a_wrong_certificate_is_refused_even_where_none_is_required() {
    let ca = Ca::new("mesh");
    let server = ca.mesh_tls(&Leaf::workload("b"));
    let client = ca.mesh_tls_of(&Ca::new("foreign").issue(&Leaf::workload("x")));
    let (_, accepted) = handshake(&client, &server, ClientAuth::Optional).await;
    assert_eq!(
        accepted.unwrap_err().reason(),
        HandshakeRefusal::PeerUnknownIssuer
    );
}

#[tokio::test]
async fn a_server_that_is_refused_learns_why() {
    let ca = Ca::new("mesh");
    let client = ca.mesh_tls(&Leaf::workload("a"));
    let server = ca.mesh_tls_of(&Ca::new("foreign").issue(&Leaf::workload("x")));
    let (_, accepted) = handshake(&client, &server, ClientAuth::Required).await;
    let error = accepted.unwrap_err();
    assert!(
        matches!(error, HandshakeError::PeerAlert(Alert(48))),
        "{error}"
    );
}

#[tokio::test]
async fn a_tls_1_2_client_is_refused() {
    let ca = Ca::new("mesh");
    let server = ca.mesh_tls(&Leaf::workload("b"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let openssl = std::thread::spawn(move || {
        Command::new("openssl")
            .args(["s_client", "-tls1_2", "-connect", &address.to_string()])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    });
    let (mut stream, _) = listener.accept().await.unwrap();
    let error = accept(&server, ClientAuth::Required, &mut stream)
        .await
        .unwrap_err();
    drop(stream);
    assert_eq!(error.reason(), HandshakeRefusal::PeerTlsVersion, "{error}");
    let output = openssl.join().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("alert protocol version"), "{told}");
}

#[tokio::test]
async fn a_server_that_speaks_only_tls_1_2_is_refused() {
    let ca = Ca::new("mesh");
    let client = ca.mesh_tls(&Leaf::workload("a"));
    let (mut near, mut far) = duplex(1 << 20);
    far.write_all(&[21, 3, 3, 0, 2, 2, 70]).await.unwrap();
    let error = connect(&client, Offer::Sealwire1, &mut near)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), HandshakeRefusal::PeerTlsVersion, "{error}");
}

#[tokio::test]
async fn plain_text_is_recognized() {
    let error = accept_bytes(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(error.reason(), HandshakeRefusal::PeerNotTls, "{error}");
}

#[tokio::test]
async fn garbage_in_a_record_is_refused() {
    let error = accept_bytes(&[22, 3, 1, 0, 4, 9, 9, 9, 9]).await;
    assert_eq!(error.reason(), HandshakeRefusal::PeerProtocol, "{error}");
}

#[tokio::test]
async fn a_handshake_cut_short_is_told_from_a_refused_one() {
    for sent in [&[][..], &[22, 3], &[22, 3, 1, 0, 100, 1]] {
        let error = accept_bytes(sent).await;
        assert_eq!(error.reason(), HandshakeRefusal::Truncated, "{error}");
    }
}

#[tokio::test]
async fn a_record_that_is_too_long_is_refused_unread() {
    let error = accept_bytes(&[22, 3, 1, 0xff, 0xff]).await;
    assert_eq!(error.reason(), HandshakeRefusal::TooLarge, "{error}");
}

#[tokio::test]
async fn a_handshake_that_grows_without_end_is_refused() {
    let mut incoming = Incoming {
        bytes: Vec::new(),
        total: MAX_HANDSHAKE_LEN - 10,
    };
    incoming
        .read_record(&mut [22, 3, 3, 0, 5, 1, 2, 3, 4, 5].as_slice())
        .await
        .unwrap();
    let error = incoming
        .read_record(&mut [22, 3, 3, 0, 1, 1].as_slice())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), HandshakeRefusal::TooLarge, "{error}");
}

async fn handshake(
    client: &MeshTls,
    server: &MeshTls,
    client_auth: ClientAuth,
) -> (
    Result<Handshaken, HandshakeError>,
    Result<Handshaken, HandshakeError>,
) {
    let (mut near, mut far) = duplex(1 << 20);
    tokio::join!(
        connect(client, Offer::Sealwire1, &mut near),
        accept(server, client_auth, &mut far)
    )
}

/// The errors of a client and of a server that meet this peer.
async fn refused_both_ways(peer: impl Fn(&Ca) -> MeshTls) -> [HandshakeError; 2] {
    let ca = Ca::new("mesh");
    let good = ca.mesh_tls(&Leaf::workload("a"));
    let bad = peer(&ca);
    let (connected, _) = handshake(&good, &bad, ClientAuth::Required).await;
    let (_, accepted) = handshake(&bad, &good, ClientAuth::Required).await;
    [connected.unwrap_err(), accepted.unwrap_err()]
}

async fn accept_bytes(bytes: &[u8]) -> HandshakeError {
    let server = Ca::new("mesh").mesh_tls(&Leaf::workload("b"));
    let (mut near, mut far) = duplex(1 << 20);
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    accept(&server, ClientAuth::Required, &mut far)
        .await
        .unwrap_err()
}

/// rustls with its own verifier, no client certificate, over the blocking API.
async fn foreign_client(ca: &Ca, alpn: &[Vec<u8>], stream: &mut DuplexStream) {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    config.alpn_protocols = alpn.to_vec();
    let mut connection =
        ClientConnection::new(Arc::new(config), "leaf.example".try_into().unwrap()).unwrap();
    while connection.is_handshaking() || connection.wants_write() {
        let mut outgoing = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut outgoing).unwrap();
        }
        stream.write_all(&outgoing).await.unwrap();
        if connection.is_handshaking() {
            let mut incoming = [0; 1 << 14];
            let len = stream.read(&mut incoming).await.unwrap();
            connection.read_tls(&mut &incoming[..len]).unwrap();
            connection.process_new_packets().unwrap();
        }
    }
}
