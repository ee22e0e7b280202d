//! An agent: proves itself, enrols, follows and acknowledges.

use std::fmt;
use std::sync::Arc;

use api::client::{ClientError, mesh_api};
use api::v1;
use api::v1::mesh_api_client::MeshApiClient;
use attestation::Digest;
use attested_tls::Offer;
use attester::EvidenceSource;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::manifest::spiffe_id;
use super::platform::Platform;
use super::running::Running;
use super::user::expected;
use super::{PATIENCE, code};

pub(crate) struct Agent {
    pub(crate) instance: [u8; 16],
    platform: Platform,
    source: Arc<dyn EvidenceSource>,
    /// The latest transition that it was told, signed.
    pub(crate) known: Vec<u8>,
}

/// One connection of an agent, which may have these keys certified.
pub(crate) struct Session {
    pub(crate) client: MeshApiClient<Channel>,
    pub(crate) keys: Vec<Vec<u8>>,
    instance: [u8; 16],
}

/// Why an agent has no certificate.
#[derive(Debug)]
pub(crate) enum Failure {
    Connection(ClientError),
    Refused(Status),
}

impl Failure {
    /// The code of the refusal, whether it came before or after the connection.
    pub(crate) fn code(&self) -> String {
        match self {
            Self::Connection(ClientError::RefusedByPeer { code, .. }) => code.clone(),
            Self::Connection(error) => format!("no connection: {error}"),
            Self::Refused(status) => code(status).to_owned(),
        }
    }

    pub(crate) fn id(&self) -> String {
        match self {
            Self::Connection(ClientError::RefusedByPeer { id, .. }) => id.to_string(),
            Self::Connection(error) => panic!("no refusal: {error}"),
            Self::Refused(status) => super::id(status).to_owned(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => error.fmt(f),
            Self::Refused(status) => status.fmt(f),
        }
    }
}

impl Agent {
    /// One that runs under the policy of this name.
    pub(crate) fn new(platform: &Platform, policy: &str) -> Self {
        let mut instance = [0; 16];
        rand::fill(&mut instance).unwrap();
        Self {
            instance,
            platform: platform.clone(),
            source: platform.source(policy),
            known: Vec::new(),
        }
    }

    /// The same agent with evidence of another machine or guest.
    pub(crate) fn on(mut self, platform: &Platform, policy: &str) -> Self {
        self.source = platform.source(policy);
        self
    }

    pub(crate) async fn connect(&self, address: &str) -> Result<Session, Failure> {
        self.connect_with_keys(address, 1).await
    }

    pub(crate) async fn connect_with_keys(
        &self,
        address: &str,
        keys: usize,
    ) -> Result<Session, Failure> {
        let keys: Vec<_> = (0..keys).map(|_| fresh_key()).collect();
        let offer = Offer {
            evidence: Some(Arc::clone(&self.source)),
            manifest: None,
            certified_keys: keys.iter().map(|it| Digest::of(it)).collect(),
        };
        let connected = mesh_api(address, expected(&self.platform), offer).await;
        let (client, _) = connected.map_err(Failure::Connection)?;
        Ok(Session {
            client,
            keys,
            instance: self.instance,
        })
    }

    /// Enrols on a connection of its own, and remembers what it is told.
    pub(crate) async fn enrol(&mut self, running: &Running) -> Result<v1::EnrolResponse, Failure> {
        self.enrol_at(&running.mesh_api).await
    }

    pub(crate) async fn enrol_at(&mut self, address: &str) -> Result<v1::EnrolResponse, Failure> {
        let mut session = self.connect(address).await?;
        let request = v1::EnrolRequest {
            known: self.known.clone(),
            ..session.request(&[""])
        };
        let answer = session.client.enrol(request).await;
        let answer = answer.map_err(Failure::Refused)?.into_inner();
        self.known
            .clone_from(&answer.state.as_ref().unwrap().transition);
        Ok(answer)
    }

    /// Follows a Coordinator.
    pub(crate) async fn watch(&self, running: &Running) -> Watching {
        let mut session = self.connect(&running.mesh_api).await.unwrap();
        let request = v1::WatchRequest {
            instance: self.instance.to_vec(),
            known: self.known.clone(),
        };
        let states = session.client.watch(request).await.unwrap().into_inner();
        Watching { session, states }
    }
}

impl Session {
    /// A request for a certificate with the keys in order, for each of these identities; an empty
    /// one is the caller's own.
    pub(crate) fn request(&self, spiffe_ids: &[&str]) -> v1::EnrolRequest {
        let keys = self
            .keys
            .iter()
            .zip(spiffe_ids)
            .map(|(key, name)| v1::KeyRequest {
                public_key: key.clone(),
                spiffe_id: match *name {
                    "" => String::new(),
                    name => spiffe_id(name),
                },
            });
        v1::EnrolRequest {
            keys: keys.collect(),
            instance: self.instance.to_vec(),
            known: vec![],
        }
    }

    pub(crate) async fn enrol(&mut self, spiffe_ids: &[&str]) -> Result<v1::EnrolResponse, Status> {
        let request = self.request(spiffe_ids);
        let answer = self.client.enrol(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn acknowledge(&mut self, trusted: u64, certificate: u64) {
        self.try_acknowledge(trusted, certificate).await.unwrap();
    }

    pub(crate) async fn try_acknowledge(
        &mut self,
        trusted: u64,
        certificate: u64,
    ) -> Result<(), Status> {
        let request = v1::AcknowledgeRequest {
            instance: self.instance.to_vec(),
            trusted_generation: trusted,
            certificate_generation: certificate,
        };
        self.client.acknowledge(request).await.map(drop)
    }
}

/// An agent that is told of every change.
pub(crate) struct Watching {
    pub(crate) session: Session,
    states: Streaming<v1::MeshState>,
}

impl Watching {
    /// What it is told next; `None` where the Coordinator has ended it.
    pub(crate) async fn next(&mut self) -> Result<Option<v1::MeshState>, Status> {
        let next = timeout(PATIENCE, self.states.message()).await;
        next.expect("nothing is said")
    }

    /// The next state that is as it should be.
    pub(crate) async fn state(
        &mut self,
        mut is: impl FnMut(&v1::MeshState) -> bool,
    ) -> v1::MeshState {
        loop {
            let state = self.next().await.unwrap().expect("the watch has ended");
            if is(&state) {
                return state;
            }
        }
    }
}

/// A fresh key on P-256: `SubjectPublicKeyInfo`, DER.
pub(crate) fn fresh_key() -> Vec<u8> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    spki.as_ref().to_vec()
}
