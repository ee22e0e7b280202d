use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::appraisal::{Demand, Offer};
use crate::config;
use crate::error::AttestedTlsError;
use crate::exchange::{self, Agreed, Workers};
use crate::session::Session;
use crate::session_key::SessionKey;
use crate::stream::{AttestedStream, Peer};

/// The configuration of attested TLS; made once, for any number of connections, in both roles.
#[derive(Debug)]
pub struct AttestedTls {
    key: SessionKey,
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
    demand: Demand,
    deadline: Duration,
    workers: Workers,
}

impl AttestedTls {
    /// How long handshake and exchange usually may take.
    pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

    /// Will sign with `key`, ask `demand` of every peer, and give up on a connection `deadline`
    /// after its begin.
    pub fn new(
        key: SessionKey,
        demand: Demand,
        deadline: Duration,
    ) -> Result<Self, AttestedTlsError> {
        let client = config::client(&key).map_err(AttestedTlsError::Tls)?;
        let server = config::server(&key).map_err(AttestedTlsError::Tls)?;
        Ok(Self {
            key,
            client: Arc::new(client),
            server: Arc::new(server),
            demand,
            deadline,
            workers: Workers::new(),
        })
    }

    /// Handshake and exchange as the side that opened `stream`.
    pub async fn connect<S>(
        &self,
        stream: S,
        offer: Offer,
    ) -> Result<AttestedStream<S>, AttestedTlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.connect_before(self.deadline(), stream, offer, None)
            .await
    }

    /// Handshake and exchange as the side that accepted `stream`.
    pub async fn accept<S>(
        &self,
        stream: S,
        offer: Offer,
    ) -> Result<AttestedStream<S>, AttestedTlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_from(stream, offer, None).await
    }

    pub(crate) async fn connect_before<S>(
        &self,
        deadline: Instant,
        stream: S,
        offer: Offer,
        remote: Option<SocketAddr>,
    ) -> Result<AttestedStream<S>, AttestedTlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let session = self.before(deadline, self.client_handshake(stream)).await?;
        self.attest(session, deadline, offer, remote).await
    }

    pub(crate) async fn accept_from<S>(
        &self,
        stream: S,
        offer: Offer,
        remote: Option<SocketAddr>,
    ) -> Result<AttestedStream<S>, AttestedTlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let deadline = self.deadline();
        let session = self.before(deadline, self.server_handshake(stream)).await?;
        self.attest(session, deadline, offer, remote).await
    }

    pub(crate) async fn client_handshake<S>(
        &self,
        stream: S,
    ) -> Result<Session<S>, AttestedTlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // Never sent and never matched: peers are known by evidence. rustls wants one.
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let connector = TlsConnector::from(Arc::clone(&self.client));
        let tls = connector.connect(name, stream).await?;
        Session::new(tls, self.key.digest())
    }

    pub(crate) async fn server_handshake<S>(
        &self,
        stream: S,
    ) -> Result<Session<S>, AttestedTlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
        let tls = acceptor.accept(stream).await?;
        Session::new(tls, self.key.digest())
    }

    async fn attest<S>(
        &self,
        mut session: Session<S>,
        deadline: Instant,
        offer: Offer,
        remote: Option<SocketAddr>,
    ) -> Result<AttestedStream<S>, AttestedTlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Self {
            demand, workers, ..
        } = self;
        let appraised = self
            .before(deadline, async {
                let challenged = exchange::challenge(&mut session, &offer, demand).await?;
                exchange::prove(&mut session, challenged, &offer, demand, workers).await
            })
            .await?;
        let verdict = exchange::swap_verdicts(&mut session, appraised.verdict());
        let verdict = self.before(deadline, verdict).await;
        let agreed = appraised.settle(verdict);
        let Agreed { result, challenge } = match agreed {
            Ok(agreed) => agreed,
            Err(error) => {
                // Lets the peer see the verdict as whole; it is lost at worst.
                let _ = timeout_at(deadline, session.tls.shutdown()).await;
                return Err(error);
            }
        };
        let peer = Peer {
            result,
            key: session.peer_key,
            manifest: challenge.manifest,
            certified_keys: challenge.certified_keys,
            remote,
        };
        Ok(AttestedStream::new(session.tls, peer))
    }

    /// When a connection that begins now is given up.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// How long handshake and exchange may take.
    pub(crate) fn time_allowed(&self) -> Duration {
        self.deadline
    }

    pub(crate) async fn before<T>(
        &self,
        deadline: Instant,
        step: impl Future<Output = Result<T, AttestedTlsError>>,
    ) -> Result<T, AttestedTlsError> {
        let after = self.deadline;
        timeout_at(deadline, step)
            .await
            .unwrap_or(Err(AttestedTlsError::Deadline { after }))
    }
}
