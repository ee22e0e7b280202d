use std::sync::Arc;
use std::time::Duration;

use api::v1;
use api::v1::mesh_api_server::MeshApi;
use attestation::{AttestationResult, Code, Refusal, Refusals};
use attested_tls::{Appraiser, ConnectedPeer, Peer, Presented};
use manifest::Role;
use rustls_pki_types::UnixTime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt as _;
use tokio_stream::adapters::Map;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::debug;

use super::messages;
use crate::audit::Event;
use crate::change::head;
use crate::core::{Coordinator, Deployment, Phase};
use crate::enrol::{Caller, Issued};
use crate::refusal::{RefusalCode, Refused};
use crate::roster::{Enrolled, InstanceId, Laggard};

/// Judges the evidence of whoever calls the mesh API, by the manifest in force.
#[derive(Debug)]
pub struct MeshAppraiser {
    coordinator: Arc<Coordinator>,
}

impl MeshAppraiser {
    /// Judges by what the Coordinator has.
    pub fn new(coordinator: Arc<Coordinator>) -> Self {
        Self { coordinator }
    }
}

impl Appraiser for MeshAppraiser {
    fn appraise(&self, presented: &Presented) -> Result<AttestationResult, Refusals> {
        let deployment = self.coordinator.deployment().map_err(|refused| {
            Refusal::new(Code::NoManifest, "manifest", refused.code, "one in force")
        })?;
        let manifest = deployment.ledger.manifest();
        let result = self.coordinator.verifier.appraise(
            &presented.evidence,
            &presented.report_data,
            manifest.reference_values(),
            UnixTime::now(),
        )?;
        let policy = result.claims().host_data;
        if manifest.policy(&policy).is_none() {
            let want = "one of the manifest's Policies";
            return Err(Refusal::new(Code::HostData, "host_data", policy, want).into());
        }
        Ok(result)
    }
}

/// Serves agents and other Coordinators.
#[derive(Clone, Debug)]
pub struct MeshService {
    coordinator: Arc<Coordinator>,
}

impl MeshService {
    /// Serves what the Coordinator can do.
    pub fn new(coordinator: Arc<Coordinator>) -> Self {
        Self { coordinator }
    }

    fn peer<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
        let info = request.extensions().get::<ConnectedPeer>();
        info.map(|it| Arc::clone(&it.0))
            .ok_or_else(|| Status::internal("no attested connection"))
    }

    fn known<T>(
        deployment: &Deployment,
        peer: &Peer,
        call: impl FnOnce(Caller<'_>) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        call(Caller::find(deployment.ledger.manifest(), peer)?)
    }

    /// The deployment that a caller with this knowledge can be served from. An agent that knows a
    /// later history than the store has proves that the store was rolled back.
    async fn deployment_for(&self, known: &[u8]) -> Result<Arc<Deployment>, Refused> {
        let deployment = self.coordinator.deployment()?;
        if known.is_empty() {
            return Ok(deployment);
        }
        let known = history::SignedTransition::decode(known)
            .map_err(|error| messages::malformed(format_args!("known: {error}")))?;
        let head = known.transition.head();
        if deployment.ledger.check_contains(&head).is_ok() {
            return Ok(deployment);
        }
        let key = deployment.keyring.signer().public_key();
        key.verify(&known).map_err(|_| {
            Refused::new(
                RefusalCode::NotAllowed,
                "the caller remembers a transition of another deployment",
            )
        })?;
        self.coordinator.caught_up_to(&head).await
    }

    async fn enrolled(
        &self,
        peer: &Peer,
        message: v1::EnrolRequest,
    ) -> Result<v1::EnrolResponse, Refused> {
        let v1::EnrolRequest {
            keys,
            instance,
            known,
        } = message;
        let instance = messages::instance(&instance)?;
        let requests = messages::key_requests(keys)?;
        let deployment = self.deployment_for(&known).await?;
        let issued = self
            .coordinator
            .enrol(&deployment, peer, instance, &requests)?;
        let pending = self.coordinator.pending(&deployment);
        let state = Self::known(&deployment, peer, |caller| {
            Ok(messages::mesh_state(&deployment, pending.as_ref(), &caller))
        })?;
        let certificate = |it: Issued| v1::Certificate {
            spiffe_id: it.spiffe_id.to_string(),
            chain: it.chain,
            generation: it.generation,
            workload_secret: it.workload_secret.map(|it| it.to_vec()),
        };
        Ok(v1::EnrolResponse {
            certificates: issued.into_iter().map(certificate).collect(),
            state: Some(state),
        })
    }

    fn acknowledged(&self, peer: &Peer, message: &v1::AcknowledgeRequest) -> Result<(), Refused> {
        let deployment = self.coordinator.deployment()?;
        let instance = messages::instance(&message.instance)?;
        let manifest = deployment.ledger.manifest();
        let caller = Caller::find(manifest, peer)?;
        let now = Instant::now();
        let unknown = Enrolled {
            policy: caller.hash,
            spiffe_id: caller.policy.spiffe_id.clone(),
            remote: peer.remote,
            until: now + manifest.certificate_lifetime(),
            generation: 0,
        };
        // Nobody follows what does not exist yet.
        let newest = deployment.ledger.view().newest();
        let entered = self.coordinator.roster().acknowledged(
            instance,
            message.trusted_generation.min(newest),
            message.certificate_generation.min(newest),
            unknown,
            now,
        );
        entered.map_err(|error| Refused::new(RefusalCode::TooManyInstances, error))?;
        self.coordinator.acknowledged.notify_one();
        Ok(())
    }

    fn coordinator_alone<'d>(
        deployment: &'d Deployment,
        peer: &'d Peer,
    ) -> Result<Caller<'d>, Refused> {
        let caller = Caller::find(deployment.ledger.manifest(), peer)?;
        if caller.policy.role != Role::Coordinator {
            return Err(Refused::new(
                RefusalCode::NotAllowed,
                format_args!("policy {} has not the role coordinator", caller.hash),
            ));
        }
        Ok(caller)
    }
}

#[tonic::async_trait]
impl MeshApi for MeshService {
    async fn enrol(
        &self,
        request: Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::EnrolResponse>, Status> {
        let peer = Self::peer(&request)?;
        let message = request.into_inner();
        let coordinator = &self.coordinator;
        let enrolled = self.enrolled(&peer, message).await;
        enrolled
            .map(Response::new)
            .map_err(|refused| coordinator.refuse("enrol", &refused, peer.remote))
    }

    type WatchStream = Map<ReceiverStream<Box<Told>>, fn(Box<Told>) -> Told>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let peer = Self::peer(&request)?;
        let coordinator = Arc::clone(&self.coordinator);
        let v1::WatchRequest { instance, known } = request.into_inner();
        let check = async {
            let instance = messages::instance(&instance)?;
            let deployment = self.deployment_for(&known).await?;
            Self::known(&deployment, &peer, |_| Ok(instance))
        };
        let instance = check
            .await
            .map_err(|refused| coordinator.refuse("watch", &refused, peer.remote))?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            coordinator.metrics.watching(1);
            let until = Instant::now() + session_of(instance);
            tokio::select! {
                () = follow(&coordinator, &peer, &sender) => {}
                () = sender.closed() => {}
                () = coordinator.stopping() => {}
                () = sleep_until(until) => {
                    debug!(remote = ?peer.remote, "an agent must prove itself anew: its session is old");
                }
            }
            coordinator.metrics.watching(-1);
        });
        let told: fn(Box<Told>) -> Told = |told| *told;
        Ok(Response::new(ReceiverStream::new(receiver).map(told)))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let peer = Self::peer(&request)?;
        self.acknowledged(&peer, request.get_ref())
            .map(|()| Response::new(v1::AcknowledgeResponse {}))
            .map_err(|refused| {
                self.coordinator
                    .refuse("acknowledge", &refused, peer.remote)
            })
    }

    async fn recover_peer(
        &self,
        request: Request<v1::RecoverPeerRequest>,
    ) -> Result<Response<v1::RecoverPeerResponse>, Status> {
        let peer = Self::peer(&request)?;
        let coordinator = &self.coordinator;
        let recover = || {
            let deployment = coordinator.deployment()?;
            Self::coordinator_alone(&deployment, &peer)?;
            coordinator.audit.write(&Event::PeerRecovered {
                remote: peer.remote.map(|it| it.to_string()),
            });
            let keyring = &deployment.keyring;
            Ok(v1::RecoverPeerResponse {
                seed: keyring.seed().expose_bytes().to_vec(),
                mesh_ca_keys: keyring
                    .mesh_cas()
                    .map(|(generation, mesh_ca)| v1::MeshCaKey {
                        generation,
                        key: mesh_ca.key().to_pem().to_string(),
                    })
                    .collect(),
                head: Some(messages::head(&head(&deployment))),
            })
        };
        recover()
            .map(Response::new)
            .map_err(|refused| coordinator.refuse("recover-peer", &refused, peer.remote))
    }

    async fn get_pending(
        &self,
        request: Request<v1::GetPendingRequest>,
    ) -> Result<Response<v1::Pending>, Status> {
        let peer = Self::peer(&request)?;
        let coordinator = &self.coordinator;
        let deployment = coordinator.deployment().and_then(|deployment| {
            Self::coordinator_alone(&deployment, &peer)?;
            Ok(deployment)
        });
        let deployment =
            deployment.map_err(|refused| coordinator.refuse("pending", &refused, peer.remote))?;
        // Asked again and again while a rotation lasts: not to know is no refusal to be written down.
        let generation = request.get_ref().generation;
        if deployment.ledger.view().newest() != generation {
            return Err(Status::unavailable("another generation is the newest here"));
        }
        if deployment.keyring.mesh_ca(generation).is_none() {
            return Err(Status::unavailable("its key is not here yet"));
        }
        let waiting_for = match coordinator.pending(&deployment) {
            None => Vec::new(),
            Some(pending) if pending.knows_all => names(coordinator.laggards(&deployment)),
            Some(_) => {
                let message = "agents from before the restart may be missing";
                return Err(Status::unavailable(message));
            }
        };
        Ok(Response::new(v1::Pending { waiting_for }))
    }
}

fn names(laggards: Vec<Laggard>) -> Vec<String> {
    laggards.into_iter().map(|it| it.name).collect()
}

/// What a watching agent is told. Boxed on its way: a channel keeps room for 32 of what it carries,
/// however few may wait in it, for each agent.
type Told = Result<v1::MeshState, Status>;

/// Sends each state until the caller leaves or is no longer in the manifest.
async fn follow(coordinator: &Arc<Coordinator>, peer: &Peer, sender: &mpsc::Sender<Box<Told>>) {
    let mut phases = coordinator.watch();
    loop {
        let phase = phases.borrow_and_update().clone();
        if let Phase::Ready(deployment) = phase {
            let state = Caller::find(deployment.ledger.manifest(), peer).map(|caller| {
                let pending = coordinator.pending(&deployment);
                messages::mesh_state(&deployment, pending.as_ref(), &caller)
            });
            let state = state.map_err(|refused| coordinator.refuse("watch", &refused, peer.remote));
            let is_last = state.is_err();
            if sender.send(Box::new(state)).await.is_err() || is_last {
                return;
            }
        }
        if phases.changed().await.is_err() {
            return;
        }
    }
}

/// How long one proof lasts. Not the same for all: agents that came together, after a restart, are
/// not to come back together.
fn session_of(instance: InstanceId) -> Duration {
    let [first, second, ..] = instance.0;
    let share = f64::from(u16::from_be_bytes([first, second])) / f64::from(u16::MAX);
    SESSION.mul_f64(1.0 - share / 4.0)
}

/// How long a proof lasts at most.
pub(crate) const SESSION: Duration = Duration::from_hours(1);
