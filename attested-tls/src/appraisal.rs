use std::fmt;
use std::sync::Arc;

use attestation::{AttestationResult, Digest, Evidence, Refusals, ReportData, Role};
use attester::EvidenceSource;

/// What this side brings to one connection.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Where evidence comes from, should the peer demand it.
    pub evidence: Option<Arc<dyn EvidenceSource>>,
    /// The manifest that this side acts under.
    pub manifest: Option<Digest>,
    /// SHA-256 of each `SubjectPublicKeyInfo` that this side wants to have certified;
    /// [`MAX_CERTIFIED_KEYS`](crate::wire::MAX_CERTIFIED_KEYS) at most.
    pub certified_keys: Vec<Digest>,
}

/// What this side wants from its peers.
#[derive(Clone)]
pub enum Demand {
    /// Nothing: whoever connects is a stranger.
    Nothing,
    /// Evidence that the appraiser accepts.
    Evidence(Arc<dyn Appraiser>),
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Evidence(_) => "Evidence(..)",
        })
    }
}

/// Judges evidence: a [`Verifier`](attestation::Verifier) with reference values and a clock.
pub trait Appraiser: Send + Sync {
    /// Accepts what was presented, or gives every objection. Called where it may block.
    ///
    /// It must demand [`Presented::report_data`] of the evidence.
    fn appraise(&self, presented: &Presented) -> Result<AttestationResult, Refusals>;
}

/// What a peer presents.
#[derive(Clone, Debug)]
pub struct Presented {
    /// The peer's evidence. Nothing in it is verified.
    pub evidence: Evidence,
    /// What the evidence must carry to be of this session and to vouch for what follows.
    pub report_data: ReportData,
    /// The manifest that the peer says it acts under.
    pub manifest: Option<Digest>,
    /// SHA-256 of each `SubjectPublicKeyInfo` that the peer wants to have certified.
    pub certified_keys: Vec<Digest>,
    /// Which side the peer is.
    pub role: Role,
}
