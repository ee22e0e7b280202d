//! A certificate that this agent holds.

use std::sync::Arc;
use std::time::SystemTime;

use api::v1;
use attestation::identity::{SpiffeId, SpiffeIdError};
use thiserror::Error;
use userspace_tls::{Credentials, CredentialsError, MeshTls, Validity};

use super::key::WorkloadKey;
use super::mesh_state::MeshState;
use super::renewal::{Now, Renewal};
use crate::certificates::rfc3339;
use crate::config::Coordinator;

/// A certificate, its key, and the TLS configuration made of both and a trust bundle.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) identity: SpiffeId,
    pub(crate) chain: String,
    /// Of the mesh CA that signed it.
    pub(crate) generation: u64,
    pub(crate) renewal: Renewal,
    /// When it expires.
    pub(crate) not_after: SystemTime,
    /// The length of the history when it was issued.
    pub(crate) seq: u64,
    /// `None` once no mesh CA that is trusted vouches for it.
    pub(crate) tls: Option<Arc<MeshTls>>,
    key: WorkloadKey,
    trust_bundle: Arc<str>,
    simulated: bool,
}

/// Whether certificates that rest on the simulated TEE are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SimulatedCertificates {
    Refused,
    Allowed,
}

impl SimulatedCertificates {
    /// As configured.
    pub(crate) fn of(config: &Coordinator) -> Self {
        if config.allow_simulated_tee {
            Self::Allowed
        } else {
            Self::Refused
        }
    }
}

impl Held {
    /// Checks what a Coordinator issued: that it is for `key` and for `asked`, if that was asked for,
    /// that it is of the mesh that `state` tells of, and that peers would take it.
    pub(crate) fn check(
        certificate: v1::Certificate,
        key: WorkloadKey,
        asked: Option<&SpiffeId>,
        state: &MeshState,
        simulated: SimulatedCertificates,
        now: Now,
        fraction: f64,
    ) -> Result<Self, AnswerError> {
        let v1::Certificate {
            spiffe_id,
            chain,
            generation,
            workload_secret: _,
        } = certificate;
        let identity = SpiffeId::parse(&spiffe_id).map_err(|reason| AnswerError::SpiffeId {
            got: spiffe_id,
            reason,
        })?;
        if let Some(want) = asked.filter(|want| **want != identity) {
            return Err(AnswerError::OtherIdentity {
                got: identity,
                want: want.clone(),
            });
        }
        if !state.members.contains(&identity) {
            return Err(AnswerError::NoMember { got: identity });
        }
        if generation < state.required_generation || generation > state.generation {
            return Err(AnswerError::Generation {
                got: generation,
                oldest: state.required_generation,
                newest: state.generation,
            });
        }
        let simulated = state.simulated && simulated == SimulatedCertificates::Allowed;
        let tls = mesh_tls(&chain, &key, &state.trust_bundle, simulated)?;
        if *tls.identity() != identity {
            return Err(AnswerError::CertificateOfOther {
                got: tls.identity().clone(),
                want: identity,
            });
        }
        let validity = tls.validity();
        Ok(Self {
            renewal: Renewal::new(validity, now, fraction),
            not_after: validity.not_after,
            identity,
            chain,
            generation,
            seq: state.head().seq,
            tls: Some(Arc::new(tls)),
            key,
            trust_bundle: Arc::clone(&state.trust_bundle),
            simulated,
        })
    }

    /// Refuses where it is not valid by this machine's calendar.
    pub(crate) fn check_clock(&self, now: Now) -> Result<(), AnswerError> {
        if self.renewal.is_valid(now) {
            return Ok(());
        }
        Err(AnswerError::Clocks {
            validity: self.renewal.validity(),
            clock: now.calendar,
        })
    }

    /// The key, PKCS #8, PEM.
    pub(crate) fn key_pem(&self) -> &[u8] {
        self.key.pem()
    }

    /// Trusts another bundle from now on. The error says why the certificate is of no use with it.
    pub(crate) fn trust(&mut self, trust_bundle: &Arc<str>) -> Result<(), CredentialsError> {
        if self.trust_bundle == *trust_bundle {
            return Ok(());
        }
        self.trust_bundle = Arc::clone(trust_bundle);
        self.tls = None;
        let tls = mesh_tls(&self.chain, &self.key, trust_bundle, self.simulated)?;
        self.tls = Some(Arc::new(tls));
        Ok(())
    }
}

fn mesh_tls(
    chain: &str,
    key: &WorkloadKey,
    trust_bundle: &str,
    simulated: bool,
) -> Result<MeshTls, CredentialsError> {
    let (chain, trust_bundle) = (chain.as_bytes(), trust_bundle.as_bytes());
    let credentials = if simulated {
        Credentials::simulated_from_pem(chain, key.pem(), trust_bundle)
    } else {
        Credentials::from_pem(chain, key.pem(), trust_bundle)
    };
    credentials.and_then(MeshTls::new)
}

/// Why what a Coordinator issued is not used.
#[derive(Debug, Error)]
pub(crate) enum AnswerError {
    /// Not one certificate for each key.
    #[error("the Coordinator sent {got} certificates for {want} keys")]
    Count {
        /// How many came.
        got: usize,
        /// How many were asked for.
        want: usize,
    },
    /// What it calls the owner is no SPIFFE ID.
    #[error("the Coordinator issued a certificate for {got:?}: {reason}")]
    SpiffeId {
        /// What it says.
        got: String,
        /// What is wrong with it.
        reason: SpiffeIdError,
    },
    /// It is for somebody else.
    #[error("the Coordinator issued a certificate for {got}, but {want} was asked for")]
    OtherIdentity {
        /// Whom it says it is for.
        got: SpiffeId,
        /// Who was asked for.
        want: SpiffeId,
    },
    /// It is not for whom the answer says.
    #[error("the Coordinator sent a certificate of {got} as one for {want}")]
    CertificateOfOther {
        /// Whom the certificate names.
        got: SpiffeId,
        /// Whom the answer names.
        want: SpiffeId,
    },
    /// Nobody would talk to its owner.
    #[error("the Coordinator issued a certificate for {got}, which it does not list as a member")]
    NoMember {
        /// Whom it is for.
        got: SpiffeId,
    },
    /// It is of a mesh CA that is not, or not yet, one to issue.
    #[error(
        "the Coordinator issued a certificate of generation {got}, but generations are {oldest} to \
         {newest}"
    )]
    Generation {
        /// Its generation.
        got: u64,
        /// The oldest that is good.
        oldest: u64,
        /// The newest there is.
        newest: u64,
    },
    /// The workload's secret is not one.
    #[error("the Coordinator sent a workload secret of {got} bytes, not {want}")]
    Secret {
        /// How many bytes came.
        got: usize,
        /// How many it has.
        want: usize,
    },
    /// By this machine's calendar it is not valid: one of two clocks is wrong.
    #[error(
        "the Coordinator issued a certificate that is valid from {} until {}, but this machine's \
         clock says {}: one of the two clocks is wrong",
        rfc3339(validity.not_before), rfc3339(validity.not_after), rfc3339(*clock)
    )]
    Clocks {
        /// When it is valid.
        validity: Validity,
        /// What this machine's clock says.
        clock: SystemTime,
    },
    /// Peers would refuse it, or it is not for the key.
    #[error("the Coordinator issued a certificate that is of no use: {0}")]
    Credentials(#[from] CredentialsError),
}
