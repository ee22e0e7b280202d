//! The Coordinator as a process: puts the parts together, serves until it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use attestation::SimulatedTee;
use attested_tls::AttestedTlsError;
use attester::{AttesterError, EndorsementFiles, EvidenceSource, Paths, SimulatedTeeFile};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::audit::{Audit, AuditError};
use crate::core::{Coordinator, Settings, StartError};
use crate::flags::Flags;
use crate::metrics::Metrics;
use crate::services::{Listeners, Services};
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
    /// What is to go on for as long as the process lives has ended: a defect. Without it the others
    /// are not to go on.
    #[error("{service} has ended by itself")]
    Ended {
        /// Which.
        service: &'static str,
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

    let listeners = Listeners {
        user_api: listen(flags.user_api).await?,
        mesh_api: listen(flags.mesh_api).await?,
        probes: listen(flags.probes).await?,
    };
    let tee = source.tee();
    let mut services = Services::start(coordinator, source, flags.peer, listeners)?;
    info!(
        user_api = %flags.user_api, mesh_api = %flags.mesh_api, probes = %flags.probes,
        %tee, "the Coordinator serves"
    );
    tokio::select! {
        signal = wait_for_signal() => signal?,
        service = services.ended() => return Err(ServeError::Ended { service }),
    }
    info!("stopping; a second signal ends it at once");
    tokio::select! {
        () = services.stop() => {}
        signal = wait_for_signal() => signal?,
    }
    Ok(())
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

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })
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

const ETCD_TIMEOUT: Duration = Duration::from_secs(5);
