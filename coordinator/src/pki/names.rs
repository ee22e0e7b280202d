use std::net::IpAddr;

use attestation::identity::{DnsName, SpiffeId};

/// Everything that a workload's certificate says about who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadNames {
    /// The identity, first among the certificate's subject alternative names.
    pub spiffe_id: SpiffeId,
    /// Host names, for clients that know no SPIFFE.
    pub dns: Vec<DnsName>,
    /// Addresses, for clients that connect to one.
    pub ip: Vec<IpAddr>,
}

impl WorkloadNames {
    /// An identity without host names or addresses, as most workloads need.
    pub fn new(spiffe_id: SpiffeId) -> Self {
        Self {
            spiffe_id,
            dns: Vec::new(),
            ip: Vec::new(),
        }
    }
}
