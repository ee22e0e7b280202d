//! The Coordinator as a process: puts the parts together, serves until it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::MAX_MESSAGE_BYTES;
use api::v1::mesh_api_server::MeshApiServer;
use api::v1::user_api_server::UserApiServer;
use attestation::{Digest, SimulatedTee};
use attested_tls::{Acceptor, AttestedTls, AttestedTlsError, Demand, Limits, Offer, SessionKey};
use attester::{AttesterError, EndorsementFiles, EvidenceSource, Paths, SimulatedTeeFile};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Server;
use tracing::{info, warn};

use crate::audit::{Audit, AuditError};
use crate::core::{Coordinator, Phase, Settings, StartError};
use crate::flags::Flags;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::probes;
use crate::server::{MeshAppraiser, MeshService, UserService};
use crate::store::{
    ClientCertificate, EtcdOptions, EtcdStore, Login, RedbStore, Store, StoreError,
};

/// Why the Coordinator does not run.
#[derive(Debug, Error)]
pub enum ServeError {
    /// History can't be read.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no evidence.
    #[error(transparent)]
    Attester(#[from] AttesterError),
    /// The audit log can't be opened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] AttestedTlsError),
    /// The address is taken, or not this machine's.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A file can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// More signatures than there are keys.
    #[error("--owner-quorum is {quorum}, but there are {keys} --owner-key")]
    Quorum {
        /// What was asked for.
        quorum: usize,
        /// What there is.
        keys: usize,
    },
    /// Another call to the system failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ServeError {
    /// The exit code: 2 where the operator must change what was asked for, 3 where the machine
    /// can't do it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Quorum { .. } | Self::Read { .. } | Self::Listen { .. } | Self::Audit(_) => 2,
            Self::Attester(_) => 3,
            _ => 1,
        }
    }
}

/// Serves until a signal ends it.
pub async fn serve(flags: Flags) -> Result<(), ServeError> {
    protect_memory()?;
    let settings = settings(&flags)?;
    let source = evidence_source(&flags)?;
    let store = open_store(&flags).await?;
    let audit = Audit::open(flags.audit_log.as_deref())?;
    let coordinator = Coordinator::start(store, settings, audit, Metrics::default()).await?;
    if flags.allow_simulated_tee {
        warn!("evidence of the simulated TEE is accepted: this deployment protects nothing");
    }

    let (user_listener, mesh_listener, probe_listener) = (
        listen(flags.user_api).await?,
        listen(flags.mesh_api).await?,
        listen(flags.probes).await?,
    );
    let peers = Arc::new(Peers::new(
        Arc::clone(&coordinator),
        flags.peer.clone(),
        Arc::clone(&source),
    ));
    tokio::spawn(Arc::clone(&coordinator).follow_store());
    tokio::spawn(Arc::clone(&peers).recover());
    tokio::spawn(Arc::clone(&coordinator).rotate(peers));

    let (stop, stopped) = watch::channel(false);
    let offer = {
        let (coordinator, source) = (Arc::clone(&coordinator), Arc::clone(&source));
        move || offer(&coordinator, &source)
    };
    let user = Acceptor::new(
        user_listener,
        attested_tls(Demand::Nothing)?,
        offer.clone(),
        Limits::default(),
    );
    let appraiser = Arc::new(MeshAppraiser::new(Arc::clone(&coordinator)));
    let mesh = Acceptor::new(
        mesh_listener,
        attested_tls(Demand::Evidence(appraiser))?,
        offer,
        Limits::default(),
    );
    let user_api = UserApiServer::new(UserService::new(Arc::clone(&coordinator)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mesh_api = MeshApiServer::new(MeshService::new(Arc::clone(&coordinator)))
        .max_decoding_message_size(MESH_MESSAGE_BYTES);
    let user_api = grpc()
        .add_service(user_api)
        .serve_with_incoming_shutdown(user.incoming(), stopping(stopped.clone()));
    let mesh_api = grpc()
        .add_service(mesh_api)
        .serve_with_incoming_shutdown(mesh.incoming(), stopping(stopped.clone()));
    let probes = axum::serve(probe_listener, probes::router(Arc::clone(&coordinator)))
        .with_graceful_shutdown(stopping(stopped));
    let servers = tokio::spawn(async move {
        let (user_api, mesh_api, probes) = tokio::join!(user_api, mesh_api, probes.into_future());
        for error in [user_api.err(), mesh_api.err()].into_iter().flatten() {
            warn!(%error, "a server ended");
        }
        if let Err(error) = probes {
            warn!(%error, "the probes ended");
        }
    });
    info!(
        user_api = %flags.user_api, mesh_api = %flags.mesh_api, probes = %flags.probes,
        tee = %source.tee(), "the Coordinator serves"
    );
    wait_for_signal().await?;
    info!("stopping; a second signal ends it at once");
    stop.send_replace(true);
    tokio::select! {
        _ = timeout(DRAIN, servers) => {}
        signal = wait_for_signal() => signal?,
    }
    Ok(())
}

fn attested_tls(demand: Demand) -> Result<Arc<AttestedTls>, AttestedTlsError> {
    let key = SessionKey::generate()?;
    Ok(Arc::new(AttestedTls::new(key, demand, HANDSHAKE)?))
}

fn settings(flags: &Flags) -> Result<Settings, ServeError> {
    let keys = flags.owner_key.len();
    let quorum = flags.owner_quorum.unwrap_or(keys);
    if quorum > keys || (keys > 0 && quorum == 0) {
        return Err(ServeError::Quorum { quorum, keys });
    }
    Ok(Settings {
        first_set_owners: flags.owner_key.clone(),
        first_set_quorum: quorum,
        simulated: if flags.allow_simulated_tee {
            SimulatedTee::Allowed
        } else {
            SimulatedTee::Refused
        },
    })
}

fn evidence_source(flags: &Flags) -> Result<Arc<dyn EvidenceSource>, AttesterError> {
    if let Some(file) = &flags.simulated_tee {
        return Ok(Arc::new(SimulatedTeeFile::read(file)?.source()?));
    }
    let paths = Paths {
        endorsements: EndorsementFiles {
            vek: flags.vek.clone(),
            crl: flags.crl.clone(),
            collateral: flags.collateral.clone(),
        },
        ..Paths::default()
    };
    Ok(Arc::from(attester::detect(&paths)?))
}

async fn open_store(flags: &Flags) -> Result<Arc<dyn Store>, ServeError> {
    if flags.etcd.is_empty() {
        return Ok(Arc::new(RedbStore::open(&flags.store).await?));
    }
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| ServeError::Read {
            path: path.clone(),
            source,
        })
    };
    let optional = |path: &Option<PathBuf>| path.as_ref().map(read).transpose();
    let client = optional(&flags.etcd_cert)?.zip(optional(&flags.etcd_key)?);
    let login = flags
        .etcd_user
        .clone()
        .zip(optional(&flags.etcd_password_file)?);
    let options = EtcdOptions {
        endpoints: flags.etcd.clone(),
        prefix: flags.etcd_prefix.clone(),
        ca_pem: optional(&flags.etcd_ca)?,
        client: client.map(|(cert_pem, key_pem)| ClientCertificate {
            cert_pem,
            key_pem: key_pem.into(),
        }),
        login: login.map(|(user, password)| Login {
            user,
            password: password.trim_end().to_owned().into(),
        }),
        timeout: ETCD_TIMEOUT,
    };
    Ok(Arc::new(EtcdStore::connect(options).await?))
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

fn grpc() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(Some(STREAMS))
        .concurrency_limit_per_connection(STREAMS as usize)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })
}

async fn stopping(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn wait_for_signal() -> Result<(), ServeError> {
    let listen = |kind| {
        signal(kind).map_err(|source| ServeError::System {
            what: "listening for signals",
            source,
        })
    };
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Keys must not reach a disk by way of a core dump; and many agents need many descriptors.
fn protect_memory() -> Result<(), ServeError> {
    let limits = || -> nix::Result<()> {
        prctl::set_dumpable(false)?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    };
    limits().map_err(|errno| ServeError::System {
        what: "setting the process's limits",
        source: errno.into(),
    })
}

const HANDSHAKE: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(15);
const DRAIN: Duration = Duration::from_secs(5);
const ETCD_TIMEOUT: Duration = Duration::from_secs(5);

/// An agent has a watch and a few calls at a time.
const STREAMS: u32 = 16;

/// An agent sends keys and names, nothing large.
const MESH_MESSAGE_BYTES: usize = 512 * 1024;
