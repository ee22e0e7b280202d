//! Peers that don't get as far as the exchange.

use std::net::{IpAddr, Ipv4Addr};

use rustls::{AlertDescription, ClientConfig, Error, PeerIncompatible};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::config;
use crate::error::ProtocolViolation;

fn name() -> ServerName<'static> {
    ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

async fn serve_client(config: ClientConfig) -> Connection {
    let (near, far) = duplex(16 * 1024);
    let client = async {
        if let Ok(mut tls) = TlsConnector::from(Arc::new(config))
            .connect(name(), near)
            .await
        {
            let _ = tls.read_u8().await;
        }
    };
    let server = tls(Demand::Nothing);
    let (at_server, ()) = tokio::join!(server.accept(far, Offer::default()), client);
    at_server
}

#[tokio::test]
async fn the_post_quantum_exchange_is_what_both_sides_choose() {
    let (near, far) = duplex(16 * 1024);
    let (client, server) = (tls(Demand::Nothing), tls(Demand::Nothing));
    let (at_client, _at_server) =
        tokio::join!(client.client_handshake(near), server.server_handshake(far));
    let session = at_client.unwrap();
    let (_, connection) = session.tls.get_ref();
    let group = connection.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(
        connection.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
}

#[tokio::test]
async fn a_client_that_names_no_protocol_is_refused() {
    let mut config = config::client(&key()).unwrap();
    config.alpn_protocols.clear();
    let connection = serve_client(config).await;
    assert!(
        matches!(
            connection,
            Err(AttestedTlsError::Protocol(ProtocolViolation::Alpn))
        ),
        "{connection:?}"
    );
}

#[tokio::test]
async fn a_client_of_another_protocol_is_refused() {
    let mut config = config::client(&key()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connection = serve_client(config).await;
    assert!(
        matches!(
            connection,
            Err(AttestedTlsError::Tls(Error::NoApplicationProtocol))
        ),
        "{connection:?}"
    );
}

#[tokio::test]
async fn a_server_that_names_no_protocol_is_refused() {
    let mut config = config::server(&key()).unwrap();
    config.alpn_protocols.clear();
    let (near, far) = duplex(16 * 1024);
    let server = async {
        let mut tls = TlsAcceptor::from(Arc::new(config))
            .accept(far)
            .await
            .unwrap();
        let _ = tls.read_u8().await;
    };
    let client = tls(Demand::Nothing);
    let (at_client, ()) = tokio::join!(client.connect(near, Offer::default()), server);
    assert!(
        matches!(
            at_client,
            Err(AttestedTlsError::Protocol(ProtocolViolation::Alpn))
        ),
        "{at_client:?}"
    );
}

#[tokio::test]
async fn a_client_that_shows_no_key_is_refused() {
    let mut config = config::client(&key()).unwrap();
    config.client_auth_cert_resolver = Arc::new(NoKey);
    let connection = serve_client(config).await;
    assert!(
        matches!(
            connection,
            Err(AttestedTlsError::Tls(Error::NoCertificatesPresented))
        ),
        "{connection:?}"
    );
}

#[derive(Debug)]
struct NoKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_key_without_its_signature_is_refused_on_either_side() {
    use rustls::client::AlwaysResolvesClientRawPublicKeys;
    use rustls::server::AlwaysResolvesServerRawPublicKeys;
    use rustls::sign::CertifiedKey;

    // Shows one key, signs with another.
    let forged = || {
        let signing = key().certified().key.clone();
        Arc::new(CertifiedKey::new(vec![key().spki().clone()], signing))
    };
    let mut client = config::client(&key()).unwrap();
    client.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(forged()));
    let at_server = serve_client(client).await;
    assert!(
        matches!(
            at_server,
            Err(AttestedTlsError::Tls(Error::InvalidCertificate(
                rustls::CertificateError::BadSignature
            )))
        ),
        "{at_server:?}"
    );

    let mut server = config::server(&key()).unwrap();
    server.cert_resolver = Arc::new(AlwaysResolvesServerRawPublicKeys::new(forged()));
    let (near, far) = duplex(16 * 1024);
    let client = tls(Demand::Nothing);
    let (at_client, _) = tokio::join!(
        client.connect(near, Offer::default()),
        TlsAcceptor::from(Arc::new(server)).accept(far)
    );
    assert!(
        matches!(
            at_client,
            Err(AttestedTlsError::Tls(Error::InvalidCertificate(
                rustls::CertificateError::BadSignature
            )))
        ),
        "{at_client:?}"
    );
}

/// A `ClientHello` of TLS 1.2: without the extension that names versions.
fn tls12_client_hello() -> Vec<u8> {
    let extensions = [
        // supported_groups: secp256r1
        &[0, 10, 0, 4, 0, 2, 0, 23][..],
        // signature_algorithms: ecdsa_secp256r1_sha256
        &[0, 13, 0, 4, 0, 2, 4, 3],
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    // No session id; TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; no compression.
    body.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
    body.extend_from_slice(&extensions);
    let mut handshake = vec![1, 0];
    handshake.extend_from_slice(&(body.len() as u16).to_be_bytes());
    handshake.extend_from_slice(&body);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&(handshake.len() as u16).to_be_bytes());
    record.extend_from_slice(&handshake);
    record
}

#[tokio::test]
async fn tls_1_2_is_refused_with_an_alert() {
    let (mut near, far) = duplex(16 * 1024);
    let client = async {
        near.write_all(&tls12_client_hello()).await.unwrap();
        let mut alert = [0; 7];
        near.read_exact(&mut alert).await.unwrap();
        alert
    };
    let server = tls(Demand::Nothing);
    let (at_server, alert) = tokio::join!(server.accept(far, Offer::default()), client);
    assert!(
        matches!(
            at_server,
            Err(AttestedTlsError::Tls(Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                    | PeerIncompatible::Tls12NotOfferedOrEnabled
            )))
        ),
        "{at_server:?}"
    );
    assert_eq!(alert[0], 21);
    assert_eq!(
        AlertDescription::from(alert[6]),
        AlertDescription::ProtocolVersion
    );
}

#[tokio::test]
async fn what_is_no_tls_at_all_is_refused() {
    let (mut near, far) = duplex(16 * 1024);
    near.write_all(b"GET / HTTP/1.1\r\nHost: coordinator\r\n\r\n")
        .await
        .unwrap();
    let at_server = tls(Demand::Nothing).accept(far, Offer::default()).await;
    assert!(
        matches!(
            at_server,
            Err(AttestedTlsError::Tls(Error::InvalidMessage(_)))
        ),
        "{at_server:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hello_of_a_byte_a_second_is_too_slow() {
    let (mut near, far) = duplex(16 * 1024);
    let client = async {
        for byte in tls12_client_hello() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if near.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    };
    let server = tls(Demand::Nothing);
    let (at_server, ()) = tokio::join!(server.accept(far, Offer::default()), client);
    assert!(
        matches!(at_server, Err(AttestedTlsError::Deadline { .. })),
        "{at_server:?}"
    );
}
