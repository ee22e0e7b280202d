//! Challenge, proof, verdict: what happens between the handshake and the first application byte.

use std::sync::Arc;

use attestation::{AttestationResult, Binding, Code, Evidence, Refusal, Refusals};
use aws_lc_rs::rand;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::appraisal::{Demand, Offer, Presented};
use crate::error::{AttestedTlsError, CorrelationId, ProtocolViolation};
use crate::frame::swap;
use crate::session::{Session, opposite};
use crate::wire::{Challenge, DecodeError, MAX_CERTIFIED_KEYS, Proof, Verdict};

/// How much blocking work all connections together may have in progress. A connection that ends
/// does not end its work, so that the work itself has to be counted.
#[derive(Debug)]
pub(crate) struct Workers {
    attesting: Arc<Semaphore>,
    appraising: Arc<Semaphore>,
}

impl Workers {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            // Platforms answer one request at a time.
            attesting: Arc::new(Semaphore::new(2)),
            appraising: Arc::new(Semaphore::new(cores)),
        }
    }
}

/// The challenges of both sides.
#[derive(Debug)]
pub(crate) struct Challenged {
    own: Challenge,
    peer: Challenge,
}

/// What this side makes of the peer's proof.
#[derive(Debug)]
pub(crate) struct Appraised {
    challenged: Challenged,
    /// What evidence says of the peer, where it was demanded; else why it was refused.
    outcome: Result<Option<AttestationResult>, Refused>,
    /// Why the peer, who wanted evidence, got none.
    unable: Option<Unable>,
}

#[derive(Debug)]
struct Refused {
    refusals: Refusals,
    id: CorrelationId,
}

#[derive(Debug)]
enum Unable {
    NoSource,
    Failed(AttestedTlsError),
}

/// What the exchange ends in when both sides are content.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) result: Option<AttestationResult>,
    /// What the peer said of itself.
    pub(crate) challenge: Challenge,
}

/// Tells the peer what its evidence must be bound to, and learns the same from it.
pub(crate) async fn challenge<S>(
    session: &mut Session<S>,
    offer: &Offer,
    demand: &Demand,
) -> Result<Challenged, AttestedTlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let got = offer.certified_keys.len();
    if got > MAX_CERTIFIED_KEYS {
        return Err(AttestedTlsError::TooManyKeys { got });
    }
    let mut nonce = [0; 32];
    rand::fill(&mut nonce).map_err(|_| AttestedTlsError::Random)?;
    let own = Challenge {
        nonce,
        wants_evidence: matches!(demand, Demand::Evidence(_)),
        manifest: offer.manifest,
        certified_keys: offer.certified_keys.clone(),
    };
    let limit = Challenge::MAX_BYTES;
    let bytes = swap(&mut session.tls, &own.encode(), "challenge", limit).await?;
    let peer = Challenge::decode(&bytes).map_err(malformed("challenge"))?;
    Ok(Challenged { own, peer })
}

/// Sends evidence, reads the peer's, and judges it.
pub(crate) async fn prove<S>(
    session: &mut Session<S>,
    challenged: Challenged,
    offer: &Offer,
    demand: &Demand,
    workers: &Workers,
) -> Result<Appraised, AttestedTlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Who can't give evidence goes on all the same, so that both sides learn what is the matter.
    let (evidence, unable) = match own_evidence(session, &challenged, offer, workers).await? {
        Ok(evidence) => (evidence, None),
        Err(unable) => (None, Some(unable)),
    };
    let proof = Proof {
        evidence: evidence.map(|evidence| evidence.encode()),
    };
    let limit = Proof::MAX_BYTES;
    let bytes = swap(&mut session.tls, &proof.encode(), "proof", limit).await?;
    let proof = Proof::decode(&bytes).map_err(malformed("proof"))?;
    let outcome = match appraise(session, &challenged, proof, demand, workers).await? {
        Ok(result) => Ok(result),
        Err(refusals) => {
            let id = CorrelationId::random()?;
            tracing::warn!(%id, key = %session.peer_key, reason = %refusals, "peer refused");
            Err(Refused { refusals, id })
        }
    };
    Ok(Appraised {
        challenged,
        outcome,
        unable,
    })
}

impl Appraised {
    /// What the peer is told.
    pub(crate) fn verdict(&self) -> Verdict {
        match &self.outcome {
            Ok(_) => Verdict::Accepted,
            Err(Refused { id, .. }) => Verdict::Refused {
                code: Verdict::ATTESTATION_REFUSED.to_owned(),
                id: *id,
            },
        }
    }

    /// What becomes of the connection, given the peer's verdict or why there is none. That the peer
    /// was refused is said whatever it answered, or did not.
    pub(crate) fn settle(
        self,
        verdict: Result<Verdict, AttestedTlsError>,
    ) -> Result<Agreed, AttestedTlsError> {
        let Self {
            challenged,
            outcome,
            unable,
        } = self;
        let result = outcome?;
        match (verdict, unable) {
            (_, Some(Unable::Failed(error))) | (Err(error), _) => Err(error),
            (Ok(Verdict::Refused { id, .. }), Some(Unable::NoSource)) => {
                Err(AttestedTlsError::NoEvidenceSource { id })
            }
            (Ok(Verdict::Refused { code, id }), None) => {
                Err(AttestedTlsError::RefusedByPeer { code, id })
            }
            (Ok(Verdict::Accepted), _) => Ok(Agreed {
                result,
                challenge: challenged.peer,
            }),
        }
    }
}

/// Tells the peer the verdict and learns the peer's own.
pub(crate) async fn swap_verdicts<S>(
    session: &mut Session<S>,
    verdict: Verdict,
) -> Result<Verdict, AttestedTlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = Verdict::MAX_BYTES;
    let bytes = swap(&mut session.tls, &verdict.encode(), "verdict", limit).await?;
    Verdict::decode(&bytes).map_err(malformed("verdict"))
}

impl From<Refused> for AttestedTlsError {
    fn from(Refused { refusals, id }: Refused) -> Self {
        Self::Refused { refusals, id }
    }
}

async fn own_evidence<S>(
    session: &Session<S>,
    challenged: &Challenged,
    offer: &Offer,
    workers: &Workers,
) -> Result<Result<Option<Evidence>, Unable>, AttestedTlsError> {
    let Challenged { own, peer } = challenged;
    if !peer.wants_evidence {
        return Ok(Ok(None));
    }
    let Some(source) = offer.evidence.clone() else {
        return Ok(Err(Unable::NoSource));
    };
    let report_data = Binding {
        role: session.role,
        tee: source.tee(),
        nonce: &peer.nonce,
        exporter: &session.exporter(&peer.nonce)?,
        own_key: session.own_key,
        peer_key: session.peer_key,
        manifest: own.manifest,
        certified_keys: &own.certified_keys,
    }
    .report_data();
    let made = blocking(&workers.attesting, move || source.evidence(&report_data)).await;
    Ok(match made {
        Ok(Ok(evidence)) => Ok(Some(evidence)),
        Ok(Err(error)) => Err(Unable::Failed(error.into())),
        Err(error) => Err(Unable::Failed(error)),
    })
}

async fn appraise<S>(
    session: &Session<S>,
    challenged: &Challenged,
    proof: Proof,
    demand: &Demand,
    workers: &Workers,
) -> Result<Result<Option<AttestationResult>, Refusals>, AttestedTlsError> {
    let appraiser = match (demand, &proof.evidence) {
        (Demand::Nothing, None) => return Ok(Ok(None)),
        (Demand::Nothing, Some(_)) => return Err(ProtocolViolation::UnwantedEvidence.into()),
        (Demand::Evidence(appraiser), _) => Arc::clone(appraiser),
    };
    let Some(evidence) = proof.evidence else {
        let refusal = Refusal::new(Code::Missing, "evidence", "absent", "evidence of a TEE");
        return Ok(Err(refusal.into()));
    };
    let evidence = match Evidence::decode(&evidence) {
        Ok(evidence) => evidence,
        Err(refusal) => return Ok(Err(refusal.into())),
    };
    let Challenged { own, peer } = challenged;
    let role = opposite(session.role);
    let report_data = Binding {
        role,
        tee: evidence.tee(),
        nonce: &own.nonce,
        exporter: &session.exporter(&own.nonce)?,
        own_key: session.peer_key,
        peer_key: session.own_key,
        manifest: peer.manifest,
        certified_keys: &peer.certified_keys,
    }
    .report_data();
    let presented = Presented {
        evidence,
        report_data,
        manifest: peer.manifest,
        certified_keys: peer.certified_keys.clone(),
        role,
    };
    let judged = blocking(&workers.appraising, move || appraiser.appraise(&presented)).await?;
    Ok(judged.map(Some))
}

async fn blocking<T: Send + 'static>(
    permits: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AttestedTlsError> {
    let interrupted = || AttestedTlsError::Interrupted;
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(|_| interrupted())?;
    tokio::task::spawn_blocking(move || {
        let _until_done = permit;
        work()
    })
    .await
    .map_err(|_| interrupted())
}

fn malformed(message: &'static str) -> impl Fn(DecodeError) -> AttestedTlsError {
    move |error| ProtocolViolation::Malformed { message, error }.into()
}
