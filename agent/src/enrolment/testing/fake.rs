//! A Coordinator on the loopback that is attested like a real one, and says what it is told to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use api::v1;
use api::v1::mesh_api_server::{MeshApi, MeshApiServer};
use attestation::{
    AttestationResult, Digest, ReferenceValues, Refusals, SimulatedTee, Verifier, simulated,
};
use attested_tls::{
    Acceptor, Appraiser, AttestedTls, Demand, Limits, Offer, Presented, SessionKey,
};
use attester::simulated::platform_key_digest;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use super::Deployment;

/// A Coordinator that runs until it is dropped.
pub(crate) struct FakeCoordinator {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    /// With an event loop of its own, so that its connections end with it.
    thread: Option<JoinHandle<()>>,
}

/// What it says and what it heard.
struct Shared {
    deployment: Arc<Deployment>,
    says: watch::Sender<Says>,
    enrolments: Mutex<Vec<v1::EnrolRequest>>,
    acknowledged: watch::Sender<Option<(u64, u64)>>,
}

/// What it says from now on.
#[derive(Clone)]
pub(crate) struct Says {
    /// What the mesh is like; `None` is that the caller is not allowed.
    pub(crate) state: Option<v1::MeshState>,
    /// The generation that signs certificates.
    pub(crate) signs: u64,
    /// Who may have a certificate, by name; the first is the caller's own identity.
    pub(crate) allowed: Vec<&'static str>,
    /// What certificates come with.
    pub(crate) secret: Option<Vec<u8>>,
}

impl FakeCoordinator {
    /// Runs under the policy `coordinator`.
    pub(crate) async fn start(deployment: &Arc<Deployment>, says: Says) -> Self {
        Self::start_as("coordinator", deployment, says).await
    }

    /// Runs under the policy of this name.
    pub(crate) async fn start_as(policy: &str, deployment: &Arc<Deployment>, says: Says) -> Self {
        let shared = Arc::new(Shared {
            deployment: Arc::clone(deployment),
            says: watch::Sender::new(says),
            enrolments: Mutex::default(),
            acknowledged: watch::Sender::new(None),
        });
        let demand = Demand::Evidence(Arc::new(AnyGuest::of(deployment)));
        let tls = AttestedTls::new(
            SessionKey::generate().unwrap(),
            demand,
            AttestedTls::DEFAULT_DEADLINE,
        );
        let evidence = deployment.tee(policy);
        let offer = move || Offer {
            evidence: Some(evidence.clone()),
            ..Offer::default()
        };
        let service = MeshApiServer::new(Service(Arc::clone(&shared)));
        let (stop, stopped) = oneshot::channel();
        let (listening, address) = oneshot::channel();
        let serve = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listening.send(listener.local_addr().unwrap()).unwrap();
            let tls = Arc::new(tls.unwrap());
            let acceptor = Acceptor::new(listener, tls, offer, Limits::default());
            let server = Server::builder().add_service(service);
            tokio::select! {
                _ = server.serve_with_incoming(acceptor.incoming()) => {}
                _ = stopped => {}
            }
        };
        let thread = thread::spawn(|| {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(serve);
        });
        Self {
            address: address.await.unwrap(),
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Says something else, also to those that follow.
    pub(crate) fn say(&self, change: impl FnOnce(&mut Says)) {
        self.shared.says.send_modify(change);
    }

    /// What was asked for.
    pub(crate) fn enrolments(&self) -> Vec<v1::EnrolRequest> {
        self.shared.enrolments.lock().unwrap().clone()
    }

    /// Waits until the agent acknowledges these generations.
    pub(crate) async fn acknowledged(&self, trusted: u64, certificate: u64) {
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let want = Some((trusted, certificate));
        let seen = timeout(PATIENCE, acknowledged.wait_for(|got| *got == want)).await;
        let got = *self.shared.acknowledged.borrow();
        assert!(seen.is_ok(), "acknowledged {got:?}, not {want:?}");
    }
}

impl Drop for FakeCoordinator {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes every guest of the deployment's machines.
struct AnyGuest {
    verifier: Verifier,
    reference_values: ReferenceValues,
}

impl AnyGuest {
    fn of(deployment: &Deployment) -> Self {
        Self {
            verifier: Verifier::new(SimulatedTee::Allowed),
            reference_values: ReferenceValues {
                simulated: vec![simulated::ReferenceValues {
                    measurement: [0; 48],
                    platform_keys: vec![platform_key_digest(&deployment.platform_key).unwrap()],
                }],
                ..ReferenceValues::default()
            },
        }
    }
}

impl Appraiser for AnyGuest {
    fn appraise(&self, presented: &Presented) -> Result<AttestationResult, Refusals> {
        let now = rustls_pki_types::UnixTime::now();
        let Presented {
            evidence,
            report_data,
            ..
        } = presented;
        self.verifier
            .appraise(evidence, report_data, &self.reference_values, now)
    }
}

struct Service(Arc<Shared>);

fn not_allowed() -> Status {
    let mut status = Status::new(Code::PermissionDenied, "not-allowed (id 00ff)");
    let metadata = status.metadata_mut();
    metadata.insert(api::CODE, "not-allowed".parse().unwrap());
    metadata.insert(api::ID, "00ff".parse().unwrap());
    status
}

#[tonic::async_trait]
impl MeshApi for Service {
    type WatchStream = ReceiverStream<Result<v1::MeshState, Status>>;

    async fn enrol(
        &self,
        request: Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::EnrolResponse>, Status> {
        let peer = request.extensions().get::<attested_tls::ConnectedPeer>();
        let certified_keys = peer.unwrap().0.certified_keys.clone();
        let request = request.into_inner();
        self.0.enrolments.lock().unwrap().push(request.clone());
        let says = self.0.says.borrow().clone();
        let state = says.state.ok_or_else(not_allowed)?;
        let certificates = request.keys.iter().map(|key| {
            assert!(certified_keys.contains(&Digest::of(&key.public_key)));
            let name = match key.spiffe_id.rsplit('/').next() {
                Some("") | None => says.allowed[0],
                Some(name) => name,
            };
            if !says.allowed.contains(&name) {
                return Err(not_allowed());
            }
            let mut certificate = self.0.deployment.issue(name, &key.public_key, says.signs);
            certificate.workload_secret = says.secret.clone();
            Ok(certificate)
        });
        Ok(Response::new(v1::EnrolResponse {
            certificates: certificates.collect::<Result<_, _>>()?,
            state: Some(state),
        }))
    }

    async fn watch(
        &self,
        _: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let mut says = self.0.says.subscribe();
        if says.borrow_and_update().state.is_none() {
            return Err(not_allowed());
        }
        tokio::spawn(async move {
            loop {
                let state = says.borrow_and_update().state.clone();
                let is_last = state.is_none();
                let sent = sender.send(state.ok_or_else(not_allowed)).await;
                if sent.is_err() || is_last || says.changed().await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let request = request.into_inner();
        let heard = (request.trusted_generation, request.certificate_generation);
        self.0.acknowledged.send_replace(Some(heard));
        Ok(Response::new(v1::AcknowledgeResponse {}))
    }

    async fn recover_peer(
        &self,
        _: Request<v1::RecoverPeerRequest>,
    ) -> Result<Response<v1::RecoverPeerResponse>, Status> {
        Err(not_allowed())
    }

    async fn get_pending(
        &self,
        _: Request<v1::GetPendingRequest>,
    ) -> Result<Response<v1::Pending>, Status> {
        Err(not_allowed())
    }
}

/// How long a test waits for what should happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
