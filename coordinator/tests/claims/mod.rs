//! What evidence of each TEE may say.

use attestation::{Claims, Digest, Tee};
use coordinator::pki::CertificateClaims;

/// Claims in which no two fields could be taken for each other.
pub(crate) fn evidence(tee: Tee) -> Claims {
    Claims {
        tee,
        measurement: [0x11; 48],
        host_data: Digest([0x22; 32]),
        platform: match tee {
            Tee::SevSnp => vec![0x33; 64],
            Tee::Tdx => vec![0x44; 16],
            Tee::Simulated => Vec::new(),
        },
    }
}

/// The same under a manifest.
pub(crate) fn claims(evidence: &Claims) -> CertificateClaims<'_> {
    CertificateClaims {
        evidence,
        manifest: Digest([0x55; 32]),
        transition_seq: 300,
    }
}
