//! Calls of the mesh API, none of which lasts forever.

use std::time::Duration;

use api::v1;
use api::v1::mesh_api_client::MeshApiClient;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::error::Why;
use super::standing::Asked;

/// Asks for a certificate for each key.
pub(super) async fn enrol(
    client: &mut MeshApiClient<Channel>,
    asked: &[Asked],
    instance: [u8; 16],
    known: Vec<u8>,
) -> Result<v1::EnrolResponse, Why> {
    let request = v1::EnrolRequest {
        keys: asked.iter().map(Asked::request).collect(),
        instance: instance.to_vec(),
        known,
    };
    answer(client.enrol(request)).await
}

/// The answer of a call, or what kept it away.
pub(super) async fn answer<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Why> {
    match timeout(LONGEST_CALL, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Why::of_status(status)),
        Err(_) => Err(Why::Deadline(LONGEST_CALL)),
    }
}

/// How long to wait for an answer.
pub(super) const LONGEST_CALL: Duration = Duration::from_secs(15);
