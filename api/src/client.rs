//! Calls a Coordinator, after it has proved itself.

use std::sync::Arc;
use std::time::Duration;

use attestation::{AttestationResult, Code, Digest, ReferenceValues, Refusal, Refusals, Verifier};
use attested_tls::{
    Appraiser, AttestedTls, AttestedTlsError, Demand, Offer, Peer, Presented, SessionKey,
};
use rustls_pki_types::UnixTime;
use tonic::transport::Channel;

use crate::MAX_MESSAGE_BYTES;
use crate::v1::mesh_api_client::MeshApiClient;
use crate::v1::user_api_client::UserApiClient;

/// Why there is no Coordinator to talk to.
pub type ClientError = AttestedTlsError;

/// What a Coordinator has to prove: one of the reference values, and the Coordinator's policy.
#[derive(Clone, Debug)]
pub struct ExpectedCoordinator {
    verifier: Verifier,
    reference_values: ReferenceValues,
    policy: Digest,
}

impl ExpectedCoordinator {
    /// A Coordinator that runs under `policy` on what `reference_values` list.
    pub fn new(verifier: Verifier, reference_values: ReferenceValues, policy: Digest) -> Self {
        Self {
            verifier,
            reference_values,
            policy,
        }
    }
}

impl Appraiser for ExpectedCoordinator {
    fn appraise(&self, presented: &Presented) -> Result<AttestationResult, Refusals> {
        let result = self.verifier.appraise(
            &presented.evidence,
            &presented.report_data,
            &self.reference_values,
            UnixTime::now(),
        )?;
        let policy = result.claims().host_data;
        if policy != self.policy {
            let refusal = Refusal::new(Code::HostData, "host_data", policy, self.policy);
            return Err(refusal.into());
        }
        Ok(result)
    }
}

/// Opens one connection to the user API at `address` (`host:port`).
pub async fn user_api(
    address: &str,
    expected: Arc<ExpectedCoordinator>,
) -> Result<(UserApiClient<Channel>, Arc<Peer>), ClientError> {
    let (channel, peer) = open(address, expected, Offer::default()).await?;
    let client = UserApiClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok((client, peer))
}

/// Opens one connection to the mesh API at `address` (`host:port`), on which `offer` proves the
/// caller.
pub async fn mesh_api(
    address: &str,
    expected: Arc<ExpectedCoordinator>,
    offer: Offer,
) -> Result<(MeshApiClient<Channel>, Arc<Peer>), ClientError> {
    let (channel, peer) = open(address, expected, offer).await?;
    let client = MeshApiClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok((client, peer))
}

async fn open(
    address: &str,
    expected: Arc<ExpectedCoordinator>,
    offer: Offer,
) -> Result<(Channel, Arc<Peer>), ClientError> {
    let tls = AttestedTls::new(
        SessionKey::generate()?,
        Demand::Evidence(expected),
        DEADLINE,
    )?;
    attested_tls::channel(Arc::new(tls), address.to_owned(), offer).await
}

/// For the connection, the handshake and both proofs.
const DEADLINE: Duration = Duration::from_secs(15);
