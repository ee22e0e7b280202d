//! A Coordinator in the test's process, behind real connections.

use std::path::PathBuf;
use std::sync::Arc;

use coordinator::audit::Audit;
use coordinator::core::{Coordinator, Settings, StartError};
use coordinator::metrics::Metrics;
use coordinator::services::{Listeners, Services};
use coordinator::store::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::manifest::COORDINATOR;
use super::platform::Platform;

/// One that serves until it is dropped.
pub(crate) struct Running {
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) platform: Platform,
    services: Services,
    /// Where it is, `host:port`.
    pub(crate) user_api: String,
    pub(crate) mesh_api: String,
    pub(crate) probes: String,
}

/// How to start one.
pub(crate) struct Start {
    pub(crate) platform: Platform,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) settings: Settings,
    pub(crate) audit_log: Option<PathBuf>,
    pub(crate) peers: Vec<String>,
}

/// Where one is going to be.
pub(crate) struct Place(Listeners);

impl Place {
    pub(crate) async fn new() -> Self {
        Self(Listeners {
            user_api: listen().await,
            mesh_api: listen().await,
            probes: listen().await,
        })
    }

    pub(crate) fn mesh_api(&self) -> String {
        address(&self.0.mesh_api)
    }
}

impl Running {
    pub(crate) async fn start(start: Start) -> Result<Self, StartError> {
        Self::start_at(Place::new().await, start).await
    }

    pub(crate) async fn start_at(place: Place, start: Start) -> Result<Self, StartError> {
        let Start {
            platform,
            store,
            settings,
            audit_log,
            peers,
        } = start;
        let audit = Audit::open(audit_log.as_deref()).unwrap();
        let coordinator = Coordinator::start(store, settings, audit, Metrics::default()).await?;
        let Place(listeners) = place;
        let [user_api, mesh_api, probes] =
            [&listeners.user_api, &listeners.mesh_api, &listeners.probes].map(address);
        let source = platform.source(COORDINATOR);
        let services = Services::start(Arc::clone(&coordinator), source, peers, listeners).unwrap();
        Ok(Self {
            coordinator,
            platform,
            services,
            user_api,
            mesh_api,
            probes,
        })
    }

    /// Ends it as a signal does.
    pub(crate) async fn stop(self) {
        self.services.stop().await;
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        get(&self.probes, path).await
    }

    /// The value of one of the metrics.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        metric_of(&self.get("/metrics").await, name)
    }
}

/// What HTTP answers, with its head.
pub(crate) async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The sum over the labels of one of the metrics in an answer.
pub(crate) fn metric_of(answer: &str, name: &str) -> f64 {
    let name = format!("sealwire_coordinator_{name}");
    answer
        .lines()
        .filter(|line| !line.starts_with('#') && line.starts_with(&name))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().unwrap().to_string()
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}
