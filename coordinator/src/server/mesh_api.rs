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
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::debug;

use super::messages;
use crate::audit::Event;
use crate::change::{head, internal};
use crate::core::{Coordinator, Deployment, Phase, now};
use crate::enrol::Caller;
use crate::refusal::{RefusalCode, Refused};
use crate::roster::Enrolled;

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

    fn judge(&self, presented: &Presented) -> Result<AttestationResult, Refusals> {
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

impl Appraiser for MeshAppraiser {
    fn appraise(&self, presented: &Presented) -> Result<AttestationResult, Refusals> {
        self.judge(presented).inspect_err(|refusals| {
            if let Some(refusal) = refusals.first() {
                self.coordinator.metrics.attestation_failed(refusal.code);
            }
        })
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
        &self,
        deployment: &Deployment,
        peer: &Peer,
        call: impl FnOnce(Caller<'_>) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        call(Caller::find(deployment.ledger.manifest(), peer)?)
    }

    /// An agent that knows a later history than this Coordinator proves that the store was rolled
    /// back.
    fn check_known(&self, deployment: &Deployment, known: &[u8]) -> Result<(), Refused> {
        if known.is_empty() {
            return Ok(());
        }
        let known = history::SignedTransition::decode(known)
            .map_err(|error| messages::malformed(format_args!("known: {error}")))?;
        if deployment
            .keyring
            .signer()
            .public_key()
            .verify(&known)
            .is_err()
        {
            return Err(Refused::new(
                RefusalCode::NotAllowed,
                "the caller remembers a transition of another deployment",
            ));
        }
        deployment
            .ledger
            .check_contains(&known.transition.head())
            .map_err(|error| {
                self.coordinator.set_store_fault(Some(error.to_string()));
                Refused::new(RefusalCode::Store, error)
            })
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
        let enrol = || {
            let deployment = coordinator.deployment()?;
            self.check_known(&deployment, &message.known)?;
            let instance = messages::instance(&message.instance)?;
            let requests = messages::key_requests(message.keys)?;
            let issued = coordinator.enrol(&deployment, &peer, instance, &requests)?;
            let pending = coordinator.pending(&deployment);
            let state = self.known(&deployment, &peer, |caller| {
                Ok(messages::mesh_state(&deployment, pending.as_ref(), &caller))
            })?;
            Ok(v1::EnrolResponse {
                certificates: issued
                    .into_iter()
                    .map(|it| v1::Certificate {
                        spiffe_id: it.spiffe_id.to_string(),
                        chain: it.chain,
                        generation: it.generation,
                        workload_secret: it.workload_secret.map(|it| it.to_vec()),
                    })
                    .collect(),
                state: Some(state),
            })
        };
        enrol()
            .map(Response::new)
            .map_err(|refused| coordinator.refuse("enrol", &refused, peer.remote))
    }

    type WatchStream = ReceiverStream<Result<v1::MeshState, Status>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let peer = Self::peer(&request)?;
        let coordinator = Arc::clone(&self.coordinator);
        let check = || {
            let deployment = coordinator.deployment()?;
            self.check_known(&deployment, &request.get_ref().known)?;
            messages::instance(&request.get_ref().instance)?;
            self.known(&deployment, &peer, |_| Ok(()))
        };
        check().map_err(|refused| coordinator.refuse("watch", &refused, peer.remote))?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            coordinator.metrics.watching(1);
            follow(&coordinator, &peer, &sender).await;
            coordinator.metrics.watching(-1);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let peer = Self::peer(&request)?;
        let message = request.into_inner();
        let coordinator = &self.coordinator;
        let acknowledge = || {
            let deployment = coordinator.deployment()?;
            let instance = messages::instance(&message.instance)?;
            self.known(&deployment, &peer, |caller| {
                let unknown = Enrolled {
                    policy: caller.hash,
                    spiffe_id: caller.policy.spiffe_id.clone(),
                    remote: peer.remote,
                    not_after: now() + deployment.ledger.manifest().certificate_lifetime(),
                    generation: 0,
                };
                coordinator.roster().acknowledged(
                    instance,
                    message.trusted_generation,
                    message.certificate_generation,
                    unknown,
                );
                coordinator.acknowledged.notify_one();
                Ok(v1::AcknowledgeResponse {})
            })
        };
        acknowledge()
            .map(Response::new)
            .map_err(|refused| coordinator.refuse("acknowledge", &refused, peer.remote))
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
        let pending = || {
            let deployment = coordinator.deployment()?;
            Self::coordinator_alone(&deployment, &peer)?;
            let generation = request.get_ref().generation;
            if deployment.ledger.view().newest() != generation {
                return Err(internal(format_args!(
                    "generation {generation} is not the newest"
                )));
            }
            match coordinator.pending(&deployment) {
                Some(pending) if !pending.knows_all => {
                    Err(internal("agents from before the restart may be missing"))
                }
                pending => Ok(v1::Pending {
                    waiting_for: pending.map(|it| it.waiting_for).unwrap_or_default(),
                }),
            }
        };
        pending()
            .map(Response::new)
            .map_err(|refused| coordinator.refuse("pending", &refused, peer.remote))
    }
}

/// Sends each state until the caller leaves, is no longer in the manifest, or must prove itself
/// anew.
async fn follow(
    coordinator: &Arc<Coordinator>,
    peer: &Peer,
    sender: &mpsc::Sender<Result<v1::MeshState, Status>>,
) {
    let mut phases = coordinator.watch();
    let until = Instant::now() + SESSION;
    loop {
        let phase = phases.borrow_and_update().clone();
        if let Phase::Ready(deployment) = phase {
            let state = Caller::find(deployment.ledger.manifest(), peer).map(|caller| {
                let pending = coordinator.pending(&deployment);
                messages::mesh_state(&deployment, pending.as_ref(), &caller)
            });
            let state = state.map_err(|refused| coordinator.refuse("watch", &refused, peer.remote));
            let is_last = state.is_err();
            if sender.send(state).await.is_err() || is_last {
                return;
            }
        }
        tokio::select! {
            changed = phases.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
            () = sleep_until(until) => {
                debug!(remote = ?peer.remote, "an agent must prove itself anew: its session is old");
                return;
            }
        }
    }
}

/// How long one proof lasts.
const SESSION: Duration = Duration::from_secs(60 * 60);
