use std::sync::Arc;
use std::time::Duration;

use api::v1;
use api::v1::user_api_server::UserApi;
use attested_tls::ConnectedPeer;
use seed::Share;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::messages;
use crate::change::{Update, head, internal};
use crate::core::{Coordinator, Phase};
use crate::deployment::{Entry, LedgerError, read_entries};
use crate::recover::refused_ledger;
use crate::refusal::{RefusalCode, Refused};
use crate::store::Store;

/// Serves people.
#[derive(Clone, Debug)]
pub struct UserService {
    coordinator: Arc<Coordinator>,
    /// Anybody may read all of history, which is work for the store: so many at a time.
    histories: Arc<Semaphore>,
}

impl UserService {
    /// Serves what the Coordinator can do.
    pub fn new(coordinator: Arc<Coordinator>) -> Self {
        Self {
            coordinator,
            histories: Arc::new(Semaphore::new(HISTORIES)),
        }
    }

    fn refuse<T>(
        &self,
        name: &str,
        request: &Request<T>,
    ) -> impl Fn(Refused) -> Status + use<'_, T> {
        let remote = request
            .extensions()
            .get::<ConnectedPeer>()
            .and_then(|it| it.0.remote);
        let name = name.to_owned();
        move |refused| self.coordinator.refuse(&name, &refused, remote)
    }

    fn status(&self) -> v1::Status {
        let coordinator = &self.coordinator;
        let fixed = v1::Status {
            trust_on_first_use: coordinator.settings.first_set_owners.is_empty(),
            simulated_tee_allowed: coordinator.settings.simulated
                == attestation::SimulatedTee::Allowed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..v1::Status::default()
        };
        match coordinator.phase() {
            Phase::Uninitialised => v1::Status {
                phase: v1::Phase::Uninitialised.into(),
                ..fixed
            },
            Phase::Recovery(waiting) => {
                let (have, need) = coordinator.recovery_progress().unwrap_or_default();
                v1::Status {
                    phase: v1::Phase::Recovery.into(),
                    head: Some(messages::head(&waiting.head)),
                    manifest: waiting.manifest.hash().0.to_vec(),
                    seed_shares: waiting.shares.to_json().into_bytes(),
                    recovery: Some(v1::Recovery {
                        have: have as u32,
                        need: need as u32,
                    }),
                    ..fixed
                }
            }
            Phase::Ready(deployment) => {
                let ledger = &deployment.ledger;
                v1::Status {
                    phase: v1::Phase::Ready.into(),
                    head: Some(messages::head(&head(&deployment))),
                    manifest: ledger.manifest().hash().0.to_vec(),
                    root_ca: deployment.keyring.root().certificate().pem(),
                    mesh_cas: messages::mesh_cas(&deployment),
                    transition_key: deployment.keyring.signer().public_key().spki_der().to_vec(),
                    seed_shares: ledger.shares().to_json().into_bytes(),
                    rotation: Some(messages::rotation(
                        ledger.view(),
                        coordinator.pending(&deployment).as_ref(),
                        // Anybody may ask: names are in the manifest, addresses are nobody's business.
                        coordinator
                            .laggards(&deployment)
                            .into_iter()
                            .map(|it| it.name)
                            .collect(),
                    )),
                    ..fixed
                }
            }
        }
    }
}

#[tonic::async_trait]
impl UserApi for UserService {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::Status>, Status> {
        Ok(Response::new(self.status()))
    }

    type GetHistoryStream = ReceiverStream<Result<v1::HistoryEntry, Status>>;

    async fn get_history(
        &self,
        request: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<Self::GetHistoryStream>, Status> {
        let refuse = self.refuse("history", &request);
        let deployment = self.coordinator.deployment().map_err(&refuse)?;
        // Ends with the request's deadline where the others are slow.
        let place = Arc::clone(&self.histories)
            .acquire_owned()
            .await
            .map_err(internal)
            .map_err(&refuse)?;
        let store = Arc::clone(&self.coordinator.store);
        let entries = read_entries(store.as_ref(), deployment.ledger.stored_head(), None)
            .await
            .map_err(refused_ledger)
            .map_err(&refuse)?;
        let (sender, receiver) = mpsc::channel(1);
        let coordinator = Arc::clone(&self.coordinator);
        tokio::spawn(async move {
            let _place = place;
            for (head, entry) in entries {
                let message = history_entry(store.as_ref(), head.seq, &entry)
                    .await
                    .map_err(refused_ledger)
                    .map_err(|refused| coordinator.refuse("history", &refused, None));
                let is_last = message.is_err();
                // Who does not read must not keep the place.
                let sent = sender.send_timeout(message, PATIENCE).await;
                if sent.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn set_manifest(
        &self,
        request: Request<v1::SetManifestRequest>,
    ) -> Result<Response<v1::SetManifestResponse>, Status> {
        let refuse = self.refuse("set", &request);
        let message = request.into_inner();
        let previous = message
            .previous_transition
            .as_deref()
            .map(|it| messages::digest("previous_transition", it))
            .transpose()
            .map_err(&refuse)?;
        let update = Update {
            manifest: message.manifest,
            policies: message.policies,
            authorisations: messages::authorisations(message.authorisations),
            previous,
        };
        // A caller that hangs up does not stop a change half-way.
        let coordinator = Arc::clone(&self.coordinator);
        let updated = tokio::spawn(async move { coordinator.set_manifest(update).await })
            .await
            .unwrap_or_else(|error| Err(Refused::new(RefusalCode::Internal, error)))
            .map_err(&refuse)?;
        let deployment = updated.deployment;
        Ok(Response::new(v1::SetManifestResponse {
            head: Some(messages::head(&head(&deployment))),
            root_ca: deployment.keyring.root().certificate().pem(),
            mesh_ca: messages::mesh_cas(&deployment)
                .into_iter()
                .next()
                .unwrap_or_default(),
            seed_shares: updated
                .new_shares
                .then(|| deployment.ledger.shares().to_json().into_bytes()),
        }))
    }

    async fn recover(
        &self,
        request: Request<v1::RecoverRequest>,
    ) -> Result<Response<v1::RecoverResponse>, Status> {
        let refuse = self.refuse("recover", &request);
        let message = request.into_inner();
        let known = messages::known_head(message.known.as_ref()).map_err(&refuse)?;
        let share = Share::decode(&message.share)
            .map_err(|error| Refused::told(RefusalCode::ShareRefused, error))
            .map_err(&refuse)?;
        let coordinator = Arc::clone(&self.coordinator);
        let progress = tokio::spawn(async move { coordinator.recover(share, known).await })
            .await
            .unwrap_or_else(|error| Err(Refused::new(RefusalCode::Internal, error)))
            .map_err(&refuse)?;
        Ok(Response::new(v1::RecoverResponse {
            have: progress.have as u32,
            need: progress.need as u32,
            recovered: progress.recovered,
        }))
    }
}

async fn history_entry(
    store: &dyn Store,
    seq: u64,
    entry: &Entry,
) -> Result<v1::HistoryEntry, LedgerError> {
    let mut objects = Vec::new();
    for digest in &entry.objects {
        let object = store.get(digest).await?;
        objects.push(object.ok_or(LedgerError::Missing {
            seq,
            what: "object",
            digest: *digest,
        })?);
    }
    Ok(v1::HistoryEntry {
        transition: entry.transition.encode(),
        objects,
    })
}

/// Histories that are read at a time.
const HISTORIES: usize = 8;

/// How long a reader of history may take for one entry.
const PATIENCE: Duration = Duration::from_secs(30);
