//! The other Coordinators of the deployment: this one takes the secrets from them after a restart,
//! and asks them whom a rotation waits for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api::client::{ClientError, ExpectedCoordinator, mesh_api};
use api::v1;
use api::v1::mesh_api_client::MeshApiClient;
use attested_tls::Offer;
use attester::EvidenceSource;
use manifest::Manifest;
use seed::Seed;
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tracing::{info, warn};
use zeroize::{Zeroize, Zeroizing};

use crate::core::{Coordinator, Deployment, Phase};
use crate::recover::PeerSecrets;
use crate::rotate::OtherCoordinators;

/// Where the other Coordinators are, and how this one proves itself to them.
pub struct Peers {
    coordinator: Arc<Coordinator>,
    addresses: Vec<String>,
    source: Arc<dyn EvidenceSource>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Why another Coordinator did not help.
#[derive(Debug, Error)]
enum PeerError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{}", .0.message())]
    Refused(#[from] tonic::Status),
    #[error("no answer within {} s", CALL.as_secs())]
    Deadline,
    #[error("its seed can't be read")]
    Seed,
}

impl Peers {
    /// The Coordinators at `addresses` (`host:port` of the mesh API).
    pub fn new(
        coordinator: Arc<Coordinator>,
        addresses: Vec<String>,
        source: Arc<dyn EvidenceSource>,
    ) -> Self {
        Self {
            coordinator,
            addresses,
            source,
        }
    }

    /// Recovers from whichever peer has the secrets, whenever this Coordinator lacks them. Goes on
    /// for as long as the process lives.
    pub async fn recover(self: Arc<Self>) {
        let mut phases = self.coordinator.watch();
        let mut without_key = 0;
        loop {
            let phase = phases.borrow_and_update().clone();
            match &phase {
                Phase::Recovery(waiting) if !self.addresses.is_empty() => {
                    self.recover_from_any(&waiting.manifest).await;
                }
                Phase::Ready(deployment) if lacks_keys(deployment) => {
                    self.recover_from_any(deployment.ledger.manifest()).await;
                    without_key += 1;
                    if without_key > GIVE_UP {
                        self.replace_lost_key().await;
                    }
                }
                _ => without_key = 0,
            }
            let is_idle = match self.coordinator.phase() {
                Phase::Recovery(_) => self.addresses.is_empty(),
                Phase::Ready(deployment) => !lacks_keys(&deployment),
                Phase::Uninitialised => true,
            };
            if is_idle {
                if phases.changed().await.is_err() {
                    return;
                }
            } else {
                sleep(RETRY).await;
            }
        }
    }

    /// A mesh CA whose key nobody has any more is followed by a fresh one.
    async fn replace_lost_key(&self) {
        let _changing = self.coordinator.changing.lock().await;
        let Ok(deployment) = self.coordinator.deployment() else {
            return;
        };
        if lacks_keys(&deployment) {
            warn!(
                "no Coordinator has the key of the mesh CA that signs; a fresh one takes its place"
            );
            let begun = self.coordinator.begin_recovered_generation(&deployment);
            if let Err(refused) = begun.await {
                warn!(%refused, "no fresh mesh CA yet");
            }
        }
    }

    async fn recover_from_any(&self, manifest: &Manifest) {
        for address in &self.addresses {
            match self.secrets_of(address, manifest).await {
                Ok(secrets) => {
                    let adopted = match self.coordinator.phase() {
                        Phase::Ready(_) => self.coordinator.adopt_keys(&secrets).await,
                        _ => self.coordinator.adopt(secrets, address).await,
                    };
                    match adopted {
                        Ok(()) => return info!(peer = address, "recovered from a peer"),
                        Err(refused) => warn!(peer = address, %refused, "its secrets do not fit"),
                    }
                }
                Err(error) => info!(peer = address, %error, "not recovered from this peer"),
            }
        }
    }

    async fn secrets_of(
        &self,
        address: &str,
        manifest: &Manifest,
    ) -> Result<PeerSecrets, PeerError> {
        let mut client = self.connect(address, manifest).await?;
        let answer = client.recover_peer(v1::RecoverPeerRequest {});
        let mut answer = within(answer).await?.into_inner();
        let seed = Seed::from_bytes(&answer.seed).map_err(|_| PeerError::Seed);
        answer.seed.zeroize();
        Ok(PeerSecrets {
            seed: seed?,
            mesh_ca_keys: answer
                .mesh_ca_keys
                .into_iter()
                .map(|it| (it.generation, Zeroizing::new(it.key)))
                .collect(),
        })
    }

    async fn connect(
        &self,
        address: &str,
        manifest: &Manifest,
    ) -> Result<MeshApiClient<Channel>, PeerError> {
        let expected = ExpectedCoordinator::new(
            self.coordinator.verifier.clone(),
            manifest.reference_values().clone(),
            *manifest.coordinator().0,
        );
        let offer = Offer {
            evidence: Some(Arc::clone(&self.source)),
            manifest: Some(manifest.hash()),
            certified_keys: vec![],
        };
        let (client, _) = mesh_api(address, Arc::new(expected), offer).await?;
        Ok(client)
    }
}

#[tonic::async_trait]
impl OtherCoordinators for Peers {
    async fn waiting_for(&self, generation: u64) -> Option<Vec<String>> {
        let deployment = self.coordinator.deployment().ok()?;
        let mut all = Vec::new();
        for address in &self.addresses {
            let asked = async {
                let mut client = self.connect(address, deployment.ledger.manifest()).await?;
                let answer = client.get_pending(v1::GetPendingRequest { generation });
                Ok::<_, PeerError>(within(answer).await?.into_inner().waiting_for)
            };
            match asked.await {
                Ok(waiting_for) => all.extend(waiting_for),
                Err(error) => {
                    info!(peer = address, %error, "can't ask whom it waits for; the deadline decides");
                    return None;
                }
            }
        }
        Some(all)
    }
}

/// Whether the newest mesh CA, or the one that signs, was made by another Coordinator.
fn lacks_keys(deployment: &Deployment) -> bool {
    let view = deployment.ledger.view();
    [view.signing(), view.newest()]
        .into_iter()
        .any(|generation| deployment.keyring.mesh_ca(generation).is_none())
}

async fn within<T>(answer: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, PeerError> {
    Ok(timeout(CALL, answer)
        .await
        .map_err(|_| PeerError::Deadline)??)
}

const CALL: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// How often the peers are asked before a lost key is given up.
const GIVE_UP: u32 = 15;
