//! Everything that a Coordinator does at the same time: its two APIs, its probes, and what follows
//! the store, the peers and the rotation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::MAX_MESSAGE_BYTES;
use api::v1::mesh_api_server::MeshApiServer;
use api::v1::user_api_server::UserApiServer;
use attestation::Digest;
use attested_tls::{Acceptor, AttestedTls, AttestedTlsError, Demand, Limits, Offer, SessionKey};
use attester::EvidenceSource;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Server;
use tracing::warn;

use crate::audit::Event;
use crate::core::{Coordinator, Phase};
use crate::peers::Peers;
use crate::probes;
use crate::server::{Budgeted, MeshAppraiser, MeshService, SESSION, UserService};

/// Where a Coordinator is reached.
#[derive(Debug)]
pub struct Listeners {
    /// For people.
    pub user_api: TcpListener,
    /// For agents and other Coordinators.
    pub mesh_api: TcpListener,
    /// For metrics and probes.
    pub probes: TcpListener,
}

/// A Coordinator that serves. Dropping it ends all that it does at once.
#[derive(Debug)]
pub struct Services {
    coordinator: Arc<Coordinator>,
    stop: watch::Sender<bool>,
    servers: JoinSet<&'static str>,
    followers: JoinSet<&'static str>,
}

impl Services {
    /// Serves on `listeners`, proving itself with evidence of `source`, beside the Coordinators whose
    /// mesh APIs are at `peers` (`host:port`).
    ///
    /// Must be called within a runtime.
    pub fn start(
        coordinator: Arc<Coordinator>,
        source: Arc<dyn EvidenceSource>,
        peers: Vec<String>,
        listeners: Listeners,
    ) -> Result<Self, AttestedTlsError> {
        let Listeners {
            user_api,
            mesh_api,
            probes,
        } = listeners;
        let demand = Demand::Nothing;
        let user = acceptor(&coordinator, &source, user_api, demand, USER_LIMITS)?;
        let appraiser = MeshAppraiser::new(Arc::clone(&coordinator));
        let demand = Demand::Evidence(Arc::new(appraiser));
        let mesh = acceptor(&coordinator, &source, mesh_api, demand, Limits::default())?;

        let peers = Arc::new(Peers::new(Arc::clone(&coordinator), peers, source));
        let mut followers = JoinSet::new();
        followers.spawn(named(
            "what follows the store",
            Arc::clone(&coordinator).follow_store(),
        ));
        followers.spawn(named("recovery", Arc::clone(&peers).recover()));
        followers.spawn(named(
            "the rotation",
            Arc::clone(&coordinator).rotate(peers),
        ));

        let (stop, stopped) = watch::channel(false);
        let user_api = UserApiServer::new(UserService::new(Arc::clone(&coordinator)))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let mesh_api = MeshApiServer::new(MeshService::new(Arc::clone(&coordinator)))
            .max_decoding_message_size(MESH_MESSAGE_BYTES);
        let user_api = grpc(USER_STREAMS, USER_SESSION)
            .add_service(Budgeted::new(user_api, USER_BYTES))
            .serve_with_incoming_shutdown(user.incoming(), stopping(stopped.clone()));
        let mesh_api = grpc(MESH_STREAMS, SESSION)
            .add_service(Budgeted::new(mesh_api, MESH_BYTES))
            .serve_with_incoming_shutdown(mesh.incoming(), stopping(stopped.clone()));
        let probes = probes::serve(probes, Arc::clone(&coordinator), stopping(stopped));
        let mut servers = JoinSet::new();
        servers.spawn(server("the user API", user_api));
        servers.spawn(server("the mesh API", mesh_api));
        servers.spawn(server("the probes", probes));
        Ok(Self {
            coordinator,
            stop,
            servers,
            followers,
        })
    }

    /// Waits until something ends that is to go on for as long as the Coordinator does. What it was.
    pub async fn ended(&mut self) -> &'static str {
        let ended = tokio::select! {
            Some(ended) = self.servers.join_next() => ended,
            Some(ended) = self.followers.join_next() => ended,
            else => return "everything",
        };
        ended.unwrap_or("a task that panicked")
    }

    /// Lets the requests that are under way end, for some seconds.
    pub async fn stop(mut self) {
        self.followers.abort_all();
        self.coordinator.stop();
        self.stop.send_replace(true);
        let servers = async { while self.servers.join_next().await.is_some() {} };
        if timeout(DRAIN, servers).await.is_err() {
            warn!("some requests did not end in time");
        }
    }
}

fn acceptor(
    coordinator: &Arc<Coordinator>,
    source: &Arc<dyn EvidenceSource>,
    listener: TcpListener,
    demand: Demand,
    limits: Limits,
) -> Result<Acceptor, AttestedTlsError> {
    let tls = Arc::new(AttestedTls::new(
        SessionKey::generate()?,
        demand,
        HANDSHAKE,
    )?);
    let offer = {
        let (coordinator, source) = (Arc::clone(coordinator), Arc::clone(source));
        move || offer(&coordinator, &source)
    };
    let coordinator = Arc::clone(coordinator);
    let on_failure = move |remote, error: &_| refused_evidence(&coordinator, remote, error);
    Ok(Acceptor::new(listener, tls, offer, limits).on_failure(on_failure))
}

/// What the Coordinator proves about itself now.
fn offer(coordinator: &Coordinator, source: &Arc<dyn EvidenceSource>) -> Offer {
    let manifest: Option<Digest> = match coordinator.phase() {
        Phase::Ready(deployment) => Some(deployment.ledger.manifest().hash()),
        Phase::Uninitialised | Phase::Recovery(_) => None,
    };
    Offer {
        evidence: Some(Arc::clone(source)),
        manifest,
        certified_keys: vec![],
    }
}

/// Writes down whose evidence was refused, and why.
fn refused_evidence(coordinator: &Coordinator, remote: SocketAddr, error: &AttestedTlsError) {
    let AttestedTlsError::Refused { refusals, id } = error else {
        return;
    };
    let Some(first) = refusals.first() else {
        return;
    };
    coordinator.metrics.attestation_failed(first.code);
    coordinator.audit.write(&Event::Refused {
        request: "attest",
        code: first.code.as_str(),
        id: &id.to_string(),
        reason: refusals.to_string(),
        remote: Some(remote.to_string()),
    });
}

fn grpc(streams: u32, session: Duration) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(Some(streams))
        .concurrency_limit_per_connection(streams as usize)
        .timeout(REQUEST)
        .max_connection_age(session)
        .max_connection_age_grace(REQUEST)
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

async fn server<E: std::fmt::Display>(
    name: &'static str,
    serving: impl Future<Output = Result<(), E>>,
) -> &'static str {
    if let Err(error) = serving.await {
        warn!(server = name, %error, "a server ended");
    }
    name
}

async fn stopping(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

const HANDSHAKE: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(15);
const DRAIN: Duration = Duration::from_secs(5);

/// Longer than the store takes to say that it can't.
const REQUEST: Duration = Duration::from_mins(1);

/// What a connection may have under way without its request being read, in bytes.
const WINDOW: u32 = 64 * 1024;

/// An agent has a watch and a few calls at a time; a person one call.
const MESH_STREAMS: u32 = 16;
const USER_STREAMS: u32 = 4;

/// Nobody proves anything on the user API, so that nobody keeps a connection for long, or many.
const USER_SESSION: Duration = Duration::from_mins(2);
const USER_LIMITS: Limits = Limits {
    handshakes: 64,
    handshakes_per_source: 32,
    waiting: 512,
    patience: Duration::from_secs(2),
    connections: 512,
    connections_per_source: 128,
};

/// What the requests of all callers together may take beside small ones, in bytes.
const USER_BYTES: usize = 8 * MAX_MESSAGE_BYTES;
const MESH_BYTES: usize = 64 * MESH_MESSAGE_BYTES;

/// An agent sends keys and names, nothing large.
const MESH_MESSAGE_BYTES: usize = 512 * 1024;
