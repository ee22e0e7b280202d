//! What owners and operators do.

use std::sync::Arc;

use api::client::{ExpectedCoordinator, user_api};
use api::v1;
use api::v1::user_api_client::UserApiClient;
use attestation::{Digest, ReferenceValues, SimulatedTee, Verifier, simulated};
use history::{Chain, Head, OwnerKey, SignedTransition, TransitionKey, update_statement};
use seed::Share;
use tonic::Status;
use tonic::transport::Channel;

use super::manifest::{COORDINATOR, ManifestBuilder, policy_hash};
use super::owners::{ShareOwner, share_owners, workload_owners};
use super::platform::{MEASUREMENT, Platform};
use super::running::Running;

/// The Coordinator that everybody expects.
pub(crate) fn expected(platform: &Platform) -> Arc<ExpectedCoordinator> {
    let reference = ReferenceValues {
        simulated: vec![simulated::ReferenceValues {
            measurement: MEASUREMENT,
            platform_keys: vec![platform.key_digest()],
        }],
        ..ReferenceValues::default()
    };
    Arc::new(ExpectedCoordinator::new(
        Verifier::new(SimulatedTee::Allowed),
        reference,
        policy_hash(COORDINATOR),
    ))
}

/// A person before a Coordinator.
pub(crate) struct User {
    platform: Platform,
    address: String,
}

impl Running {
    pub(crate) fn user(&self) -> User {
        User::new(&self.platform, &self.user_api)
    }

    pub(crate) async fn set_first(
        &self,
        manifest: &ManifestBuilder,
    ) -> Result<v1::SetManifestResponse, Status> {
        self.user().set_first(manifest).await
    }

    pub(crate) async fn update(
        &self,
        manifest: &ManifestBuilder,
    ) -> Result<v1::SetManifestResponse, Status> {
        self.user().update(manifest).await
    }

    pub(crate) async fn status(&self) -> v1::Status {
        self.user().status().await
    }

    pub(crate) async fn recover(&self) {
        self.user().recover().await;
    }
}

impl User {
    pub(crate) fn new(platform: &Platform, address: &str) -> Self {
        Self {
            platform: platform.clone(),
            address: address.to_owned(),
        }
    }

    pub(crate) async fn client(&self) -> UserApiClient<Channel> {
        let expected = expected(&self.platform);
        user_api(&self.address, expected).await.unwrap().0
    }

    pub(crate) async fn try_client(&self) -> Result<UserApiClient<Channel>, Status> {
        let connected = user_api(&self.address, expected(&self.platform)).await;
        connected
            .map(|it| it.0)
            .map_err(|error| Status::unavailable(error.to_string()))
    }

    pub(crate) async fn status(&self) -> v1::Status {
        self.try_status().await.unwrap()
    }

    pub(crate) async fn try_status(&self) -> Result<v1::Status, Status> {
        let mut client = self.try_client().await?;
        let answer = client.get_status(v1::GetStatusRequest {}).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn head(&self) -> Head {
        let head = self.status().await.head.unwrap();
        Head {
            seq: head.seq,
            hash: Digest(head.transition.try_into().unwrap()),
        }
    }

    pub(crate) async fn set(
        &self,
        request: v1::SetManifestRequest,
    ) -> Result<v1::SetManifestResponse, Status> {
        let mut client = self.try_client().await?;
        let answer = client.set_manifest(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn set_first(
        &self,
        manifest: &ManifestBuilder,
    ) -> Result<v1::SetManifestResponse, Status> {
        self.set(request(manifest.bytes(), Digest([0; 32]), &[]))
            .await
    }

    /// The next manifest, with the consent of the first owner.
    pub(crate) async fn update(
        &self,
        manifest: &ManifestBuilder,
    ) -> Result<v1::SetManifestResponse, Status> {
        self.update_by(manifest, &workload_owners(1)).await
    }

    pub(crate) async fn update_by(
        &self,
        manifest: &ManifestBuilder,
        owners: &[&OwnerKey],
    ) -> Result<v1::SetManifestResponse, Status> {
        let head = self.head().await;
        self.set(request(manifest.bytes(), head.hash, owners)).await
    }

    pub(crate) async fn give(
        &self,
        share: &Share,
        known: Option<&Head>,
    ) -> Result<v1::RecoverResponse, Status> {
        let request = v1::RecoverRequest {
            share: share.encode().to_vec(),
            known: known.map(|it| v1::Head {
                seq: it.seq,
                transition: it.hash.0.to_vec(),
            }),
        };
        let answer = self.client().await.recover(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// The share of an owner, as the Coordinator gives it.
    pub(crate) async fn share(&self, owner: &ShareOwner) -> Share {
        owner.share(&self.status().await.seed_shares)
    }

    /// The first two owners give their shares.
    pub(crate) async fn recover(&self) {
        for owner in share_owners(2) {
            let share = self.share(owner).await;
            self.give(&share, None).await.unwrap();
        }
    }

    /// All of history, verified with the key that the Coordinator names.
    pub(crate) async fn history(&self) -> (Chain, Vec<v1::HistoryEntry>) {
        let key = self.status().await.transition_key;
        let mut client = self.client().await;
        let answer = client.get_history(v1::GetHistoryRequest {}).await;
        let mut stream = answer.unwrap().into_inner();
        let mut entries = Vec::new();
        while let Some(entry) = stream.message().await.unwrap() {
            entries.push(entry);
        }
        let transitions = entries
            .iter()
            .map(|it| SignedTransition::decode(&it.transition).unwrap())
            .collect();
        let key = TransitionKey::from_spki(&key).unwrap();
        (Chain::verify(transitions, &key).unwrap(), entries)
    }
}

/// A request to set a manifest after `previous`, signed by `owners`.
pub(crate) fn request(
    manifest: Vec<u8>,
    previous: Digest,
    owners: &[&OwnerKey],
) -> v1::SetManifestRequest {
    let statement = update_statement(&Digest::of(&manifest), &previous);
    let authorisations = owners
        .iter()
        .map(|it| {
            let signed = it.sign(&statement).unwrap();
            v1::Authorisation {
                key: signed.key,
                signature: signed.signature,
            }
        })
        .collect();
    v1::SetManifestRequest {
        manifest,
        policies: vec![],
        authorisations,
        previous_transition: None,
    }
}
