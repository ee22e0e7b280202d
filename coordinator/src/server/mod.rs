//! The two APIs on the network: messages to calls and back.

mod budget;
mod mesh_api;
mod messages;
mod user_api;

pub use budget::Budgeted;
pub(crate) use mesh_api::SESSION;
pub use mesh_api::{MeshAppraiser, MeshService};
pub use user_api::UserService;

use std::net::SocketAddr;

use tonic::Status;
use tonic::metadata::MetadataValue;
use tracing::warn;

use crate::audit::Event;
use crate::core::Coordinator;
use crate::refusal::{Refused, correlation_id};

impl Coordinator {
    /// Writes down why, and tells the caller no more than it may know.
    fn refuse(&self, request: &str, refused: &Refused, remote: Option<SocketAddr>) -> Status {
        let id = correlation_id();
        let code = refused.code;
        self.metrics.refused(code);
        warn!(request, %code, id, reason = refused.reason, ?remote, "refused");
        self.audit.write(&Event::Refused {
            request,
            code: code.as_str(),
            id: &id,
            reason: refused.reason.clone(),
            remote: remote.map(|it| it.to_string()),
        });
        let message = match &refused.detail {
            None => format!("{code} (id {id})"),
            Some(detail) => format!("{code} (id {id}): {detail}"),
        };
        let mut status = Status::new(code.grpc(), message);
        for (key, value) in [(api::CODE, code.as_str()), (api::ID, id.as_str())] {
            if let Ok(value) = MetadataValue::try_from(value) {
                status.metadata_mut().insert(key, value);
            }
        }
        status
    }
}
