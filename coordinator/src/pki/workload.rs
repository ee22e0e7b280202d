use attestation::identity::SpiffeId;
use rustls_pki_types::CertificateDer;

use super::pem;
use super::validity::Validity;

/// A workload's certificate with the intermediate that leads to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadCertificate {
    spiffe_id: SpiffeId,
    validity: Validity,
    chain: [CertificateDer<'static>; 2],
}

impl WorkloadCertificate {
    pub(super) fn new(
        spiffe_id: SpiffeId,
        validity: Validity,
        chain: [CertificateDer<'static>; 2],
    ) -> Self {
        Self {
            spiffe_id,
            validity,
            chain,
        }
    }

    /// Whose certificate it is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// When it is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Leaf, then intermediate, in the order that TLS sends them.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The chain as it stands in a file.
    pub fn chain_pem(&self) -> String {
        self.chain
            .iter()
            .map(|der| pem::encode(pem::CERTIFICATE, der))
            .collect()
    }
}
