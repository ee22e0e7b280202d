//! One TLS 1.3 handshake, read record by record: when it is done, not one byte behind its last record
//! has been taken from the socket.

use std::net::{IpAddr, Ipv4Addr};

use attestation::identity::SpiffeId;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::SupportedKxGroup;
use rustls::server::{Acceptor, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CipherSuite, CommonState, Error, ExtractedSecrets, NamedGroup};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::certificate::Facts;
use crate::config::{ALPN_SEALWIRE_1, ClientAuth, MeshTls, Offer};
use crate::records::{HEADER_LEN, MAX_CIPHERTEXT_LEN};
use crate::refusal::HandshakeError;
use crate::session::{KeySchedule, Session};
use crate::verifier;

/// Opens a TLS connection as the client.
///
/// In TLS 1.3 the client is done before the server has judged the client's certificate: a refusal
/// arrives as an alert afterwards ([`crate::RelayEnd::PeerAlert`]).
pub async fn connect<S>(
    tls: &MeshTls,
    offer: Offer,
    stream: &mut S,
) -> Result<Handshaken, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Never sent and never matched, since peers are known by SPIFFE ID; rustls wants one.
    let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let connection = UnbufferedClientConnection::new(tls.client(offer), name)
        .map_err(|error| HandshakeError::from_tls(error, None))?;
    drive(connection, stream, Incoming::default()).await
}

/// Accepts a TLS connection as the server.
pub async fn accept<S>(
    tls: &MeshTls,
    client_auth: ClientAuth,
    stream: &mut S,
) -> Result<Handshaken, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut incoming = Incoming::default();
    let offers_sealwire = peek_client_hello(stream, &mut incoming).await?;
    let connection = UnbufferedServerConnection::new(tls.server(client_auth, offers_sealwire))
        .map_err(|error| HandshakeError::from_tls(error, None))?;
    drive(connection, stream, incoming).await
}

/// A completed handshake.
#[derive(Debug)]
pub struct Handshaken {
    /// The verified peer; nobody only if the client came without a certificate and may.
    pub peer: Option<SpiffeId>,
    /// The application protocol that was agreed on, if any.
    pub application_protocol: Option<Alpn>,
    /// The cipher, for example `AES-128-GCM`.
    pub cipher: &'static str,
    /// The key exchange group.
    pub key_exchange: KeyExchange,
    /// What [`crate::relay()`] needs.
    pub session: Session,
}

/// An application protocol (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `sealwire/1`: the peer is an agent.
    Sealwire1,
    /// Any other.
    Other,
}

impl Alpn {
    /// What operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sealwire1 => "sealwire/1",
            Self::Other => "other",
        }
    }
}

/// A key exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519 with ML-KEM-768 (draft-ietf-tls-ecdhe-mlkem).
    X25519MlKem768,
    /// X25519.
    X25519,
    /// NIST P-256.
    P256,
    /// One that is never offered.
    Unknown,
}

impl KeyExchange {
    /// What operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X25519MlKem768 => "X25519MLKEM768",
            Self::X25519 => "X25519",
            Self::P256 => "P-256",
            Self::Unknown => "unknown",
        }
    }
}

/// Reads records until the `ClientHello` is complete, keeps them, and says whether it offers
/// [`ALPN_SEALWIRE_1`].
async fn peek_client_hello<S>(
    stream: &mut S,
    incoming: &mut Incoming,
) -> Result<bool, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = Acceptor::default();
    loop {
        let before = incoming.bytes.len();
        incoming.read_record(stream).await?;
        let mut record = &incoming.bytes[before..];
        while !record.is_empty() {
            acceptor
                .read_tls(&mut record)
                .map_err(|error| HandshakeError::Protocol(error.to_string()))?;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let offered = accepted.client_hello().alpn();
                return Ok(offered
                    .into_iter()
                    .flatten()
                    .any(|name| name == ALPN_SEALWIRE_1));
            }
            Err((error, mut alert)) => {
                let mut encoded = Vec::new();
                let _ = alert.write_all(&mut encoded);
                let _ = stream.write_all(&encoded).await;
                return Err(HandshakeError::from_tls(error, None));
            }
        }
    }
}

async fn drive<C, S>(
    mut connection: C,
    stream: &mut S,
    mut incoming: Incoming,
) -> Result<Handshaken, HandshakeError>
where
    C: Connection,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut outgoing = Vec::new();
    loop {
        let step = step(&mut connection, &mut incoming.bytes, &mut outgoing);
        if let Err(error) = step {
            collect_alert(&mut connection, &mut outgoing);
            // The refusal is what counts, whether or not the peer still listens.
            let _ = stream.write_all(&outgoing).await;
            return Err(error);
        }
        // A flight is sent at once, not record by record: it then leaves in few segments.
        stream.write_all(&outgoing).await?;
        stream.flush().await?;
        outgoing.clear();
        match step? {
            Step::Receive => incoming.read_record(stream).await?,
            Step::Done => return Handshaken::new(connection),
        }
    }
}

enum Step {
    Receive,
    Done,
}

/// Runs the connection until it needs a record; `outgoing` is to be sent before.
fn step<C: Connection>(
    connection: &mut C,
    incoming: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
) -> Result<Step, HandshakeError> {
    loop {
        let UnbufferedStatus { discard, state } = connection.process(incoming);
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append(outgoing, |buffer| data.encode(buffer))?;
                None
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                None
            }
            Ok(ConnectionState::BlockedHandshake) => Some(Step::Receive),
            Ok(ConnectionState::WriteTraffic(_)) => Some(Step::Done),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                return Err(HandshakeError::Truncated);
            }
            Ok(state) => {
                return Err(HandshakeError::Protocol(format!(
                    "unexpected state {state:?}"
                )));
            }
            Err(error) => return Err(HandshakeError::from_tls(error, verifier::take_refused())),
        };
        incoming.drain(..discard);
        match step {
            None => {}
            Some(Step::Done) if !incoming.is_empty() => {
                return Err(HandshakeError::Protocol(
                    "data behind the handshake".to_owned(),
                ));
            }
            Some(step) => return Ok(step),
        }
    }
}

/// After an error rustls still hands out the alert that tells the peer; asked for anything further
/// it would look at records that it has given up.
fn collect_alert<C: Connection>(connection: &mut C, outgoing: &mut Vec<u8>) {
    while connection.common().wants_write() {
        let UnbufferedStatus {
            state: Ok(ConnectionState::EncodeTlsData(mut data)),
            ..
        } = connection.process(&mut [])
        else {
            return;
        };
        if append(outgoing, |buffer| data.encode(buffer)).is_err() {
            return;
        }
    }
}

fn append(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), HandshakeError> {
    let start = outgoing.len();
    if let Err(EncodeError::InsufficientSize(needed)) = encode(&mut []) {
        outgoing.resize(start + needed.required_size, 0);
    }
    let written =
        encode(&mut outgoing[start..]).map_err(|error| HandshakeError::Local(error.to_string()))?;
    outgoing.truncate(start + written);
    Ok(())
}

/// Records that rustls has not consumed yet.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    total: usize,
}

impl Incoming {
    async fn read_record<S>(&mut self, stream: &mut S) -> Result<(), HandshakeError>
    where
        S: AsyncRead + Unpin,
    {
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).await?;
        let [content_type, major, _, high, low] = header;
        let is_tls = matches!(content_type, ALERT | HANDSHAKE) && major == 3;
        if self.total == 0 && !is_tls {
            return Err(HandshakeError::NotTls(header));
        }
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len > MAX_CIPHERTEXT_LEN {
            return Err(HandshakeError::TooLarge {
                what: "in one record",
                got: len,
                limit: MAX_CIPHERTEXT_LEN,
            });
        }
        self.total += HEADER_LEN + len;
        if self.total > MAX_HANDSHAKE_LEN {
            return Err(HandshakeError::TooLarge {
                what: "of handshake",
                got: self.total,
                limit: MAX_HANDSHAKE_LEN,
            });
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&header);
        self.bytes.resize(start + HEADER_LEN + len, 0);
        stream
            .read_exact(&mut self.bytes[start + HEADER_LEN..])
            .await?;
        Ok(())
    }
}

impl Handshaken {
    fn new<C: Connection>(connection: C) -> Result<Self, HandshakeError> {
        let common = connection.common();
        let peer = match common.peer_certificates() {
            Some([leaf, ..]) => Some(
                Facts::read(leaf)
                    .ok()
                    .and_then(|facts| facts.identity.ok())
                    .ok_or_else(|| HandshakeError::Local("verified peer has no identity".into()))?,
            ),
            Some([]) | None => None,
        };
        let application_protocol = common.alpn_protocol().map(|name| match name {
            ALPN_SEALWIRE_1 => Alpn::Sealwire1,
            _ => Alpn::Other,
        });
        let group = common
            .negotiated_key_exchange_group()
            .map(SupportedKxGroup::name);
        let key_exchange = match group {
            Some(NamedGroup::X25519MLKEM768) => KeyExchange::X25519MlKem768,
            Some(NamedGroup::X25519) => KeyExchange::X25519,
            Some(NamedGroup::secp256r1) => KeyExchange::P256,
            _ => KeyExchange::Unknown,
        };
        let suite = common
            .negotiated_cipher_suite()
            .and_then(|suite| suite.tls13())
            .ok_or_else(|| HandshakeError::Local("no TLS 1.3 cipher suite".to_owned()))?;
        let cipher = match suite.common.suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => "AES-128-GCM",
            CipherSuite::TLS13_AES_256_GCM_SHA384 => "AES-256-GCM",
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "CHACHA20-POLY1305",
            _ => "unknown",
        };
        let records_per_key = suite.common.confidentiality_limit;
        let (secrets, keys) = connection
            .into_secrets()
            .map_err(|error| HandshakeError::from_tls(error, None))?;
        let session = Session {
            secrets,
            keys,
            records_per_key,
        };
        Ok(Self {
            peer,
            application_protocol,
            cipher,
            key_exchange,
            session,
        })
    }
}

/// What rustls' client and server connections have in common.
trait Connection {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &CommonState;

    fn into_secrets(self) -> Result<(ExtractedSecrets, KeySchedule), Error>;
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_secrets(self) -> Result<(ExtractedSecrets, KeySchedule), Error> {
        let (secrets, connection) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, KeySchedule::Client(Box::new(connection))))
    }
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_secrets(self) -> Result<(ExtractedSecrets, KeySchedule), Error> {
        let (secrets, connection) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, KeySchedule::Server(Box::new(connection))))
    }
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// A chain of a dozen certificates with post-quantum keys fits; a peer cannot make us hold more.
const MAX_HANDSHAKE_LEN: usize = 128 * 1024;

#[cfg(test)]
mod tests;
