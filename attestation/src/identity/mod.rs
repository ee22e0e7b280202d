//! The names that workloads go by in the mesh.

mod dns_name;
mod spiffe_id;

pub use dns_name::{DnsName, DnsNameError};
pub use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
