use crate::binding::Digest;
use crate::tee::Tee;

/// Proof that evidence was authenticated and matches a reference value. Only a
/// [`Verifier`](crate::Verifier) makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationResult {
    claims: Claims,
    reference: String,
}

impl AttestationResult {
    pub(crate) fn new(claims: Claims, reference: String) -> Self {
        Self { claims, reference }
    }

    /// What the evidence says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The reference value that it matches, such as `snp[0]`.
    pub fn reference(&self) -> &str {
        &self.reference
    }
}

/// What evidence says of its platform and guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The kind of TEE.
    pub tee: Tee,
    /// The initial memory of the guest: MEASUREMENT of SEV-SNP, MRTD of TDX.
    pub measurement: [u8; 48],
    /// The hash of the policy that the guest was started with: `HOST_DATA` of SEV-SNP, the first 32
    /// bytes of MRCONFIGID of TDX.
    pub host_data: Digest,
    /// Which machine: `CHIP_ID` of SEV-SNP, PPID of TDX; empty where the platform hides it.
    pub platform: Vec<u8>,
}
