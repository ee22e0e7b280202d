//! What this agent knows of the mesh, which certificates it holds, and what follows from both.
//!
//! Holds no sockets and no clock: messages and moments are arguments.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::v1;
use attestation::Digest;
use attestation::identity::SpiffeId;
use thiserror::Error;
use tokio::time::Instant;
use userspace_tls::CredentialsError;

use super::held::{AnswerError, Held, SimulatedCertificates};
use super::key::{KeyError, WorkloadKey};
use super::memory::{Distrust, Memory, MemoryError};
use super::mesh_state::{MeshState, StateError, nobody};
use super::renewal::{Now, Renewal};
use crate::certificates::Issued;

/// An agent among the others of the mesh.
#[derive(Debug)]
pub(crate) struct Standing {
    memory: Memory,
    simulated: SimulatedCertificates,
    state: Option<MeshState>,
    workloads: Vec<Member>,
    /// When certificates of an older generation are to be replaced.
    replace_at: Option<Instant>,
    /// The Coordinator says that the agent's policy is none of the manifest's any more.
    is_withdrawn: bool,
}

/// A workload that wants to be one of the mesh's.
#[derive(Debug)]
struct Member {
    /// Whom it asks to be; `None` is whoever the agent's own policy says.
    wanted: Option<SpiffeId>,
    held: Option<Held>,
    /// Why the certificate that it holds is of no use.
    useless: Option<Arc<NoUse>>,
}

impl Member {
    /// Whether it holds a certificate that peers take now.
    fn can_prove_itself(&self, now: Now) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| held.tls.is_some() && held.renewal.is_valid(now))
    }
}

/// What a workload may use from now on.
#[derive(Clone, Debug)]
pub(crate) enum Use {
    /// This certificate, and what the mesh says of its owner.
    Certificate(Issued),
    /// None: that of before, if there was one, is not good any more.
    Nothing(Arc<NoUse>),
}

impl Use {
    /// Whether who uses this need not hear of `other`.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Certificate(one), Self::Certificate(other)) => {
                Arc::ptr_eq(&one.tls, &other.tls) && one.membership == other.membership
            }
            (Self::Nothing(one), Self::Nothing(other)) => one.to_string() == other.to_string(),
            _ => false,
        }
    }
}

/// Why a workload has nothing to use.
#[derive(Debug, Error)]
pub(crate) enum NoUse {
    /// Its certificate is not good with the mesh CAs that are trusted now.
    #[error("the mesh CA was withdrawn and the next certificate is not there yet: {0}")]
    Withdrawn(CredentialsError),
    /// The manifest does not let the agent act for it.
    #[error(
        "the manifest does not let this agent act for {0}; list it under Hosts of the agent's \
         policy, or correct spiffe_id"
    )]
    NotHosted(SpiffeId),
}

/// What to do about certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Ask for new ones.
    Enrol(Reason),
    /// Decide again after this long, or when there is news.
    Wait(Duration),
}

/// Why new certificates are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A workload has none.
    NoCertificate,
    /// The mesh CA that signed one is about to be withdrawn, or was.
    OldGeneration,
    /// The manifest gives the agent another identity.
    OtherIdentity,
    /// One has lived two thirds of its life.
    Age,
}

impl Reason {
    /// The name in logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::OldGeneration => "old-generation",
            Self::OtherIdentity => "other-identity",
            Self::Age => "age",
        }
    }
}

/// A key that a certificate is asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Of which workload, by its place.
    pub(crate) workload: usize,
    pub(crate) key: WorkloadKey,
    /// Who it is for; `None` is whoever the agent's own policy says.
    pub(crate) spiffe_id: Option<SpiffeId>,
}

impl Asked {
    /// SHA-256 of the key, for which evidence vouches.
    pub(crate) fn digest(&self) -> Digest {
        self.key.digest()
    }

    /// The request's part for this key.
    pub(crate) fn request(&self) -> v1::KeyRequest {
        let spiffe_id = self.spiffe_id.as_ref();
        v1::KeyRequest {
            public_key: self.key.spki().to_vec(),
            spiffe_id: spiffe_id.map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl Standing {
    /// An agent that holds nothing yet, for workloads that ask for these identities.
    pub(crate) fn new(
        memory: Memory,
        simulated: SimulatedCertificates,
        wanted: Vec<Option<SpiffeId>>,
    ) -> Self {
        let member = |wanted| Member {
            wanted,
            held: None,
            useless: None,
        };
        Self {
            memory,
            simulated,
            state: None,
            workloads: wanted.into_iter().map(member).collect(),
            replace_at: None,
            is_withdrawn: false,
        }
    }

    /// The latest transition that is known, signed and encoded; empty where none is.
    pub(crate) fn latest(&self) -> Vec<u8> {
        self.memory.latest()
    }

    /// What the Coordinator said last.
    pub(crate) fn state(&self) -> Option<&MeshState> {
        self.state.as_ref()
    }

    /// Whether the disk has what is remembered of the deployment.
    pub(crate) fn is_saved(&self) -> bool {
        self.memory.is_saved()
    }

    /// Writes what is new in memory to the disk.
    pub(crate) fn save(&mut self) -> Result<(), MemoryError> {
        self.memory.save()
    }

    /// Takes over what a Coordinator says, unless there is a reason not to believe it; `fraction`
    /// (0 to 1) is chance.
    pub(crate) fn learn(
        &mut self,
        message: Option<v1::MeshState>,
        now: Now,
        fraction: f64,
    ) -> Result<(), UntrustedState> {
        let state = MeshState::read(message.ok_or(StateError::Missing)?)?;
        self.memory.accept(&state)?;
        self.is_withdrawn = false;
        let required = |state: &MeshState| state.required_generation;
        if self.state.as_ref().map(required) != Some(state.required_generation) {
            let left = state.deadline.map(|deadline| {
                let left = deadline.duration_since(now.calendar);
                left.unwrap_or_default()
            });
            self.replace_at = Some(now.instant + spread(left).mul_f64(fraction));
        }
        for member in &mut self.workloads {
            if let Some(held) = &mut member.held {
                match held.trust(&state.trust_bundle) {
                    Ok(()) if held.tls.is_some() => member.useless = None,
                    Ok(()) => {}
                    Err(error) => member.useless = Some(Arc::new(NoUse::Withdrawn(error))),
                }
            }
        }
        self.state = Some(state);
        Ok(())
    }

    /// The Coordinator says that the agent's policy is none of the manifest's any more.
    pub(crate) fn withdraw(&mut self) {
        self.is_withdrawn = true;
    }

    /// Fresh keys for every workload that may ask for a certificate.
    pub(crate) fn ask(&self) -> Result<Vec<Asked>, KeyError> {
        let workloads = self.workloads.iter().enumerate();
        workloads
            .filter(|(_, member)| self.may_ask(member))
            .map(|(workload, member)| {
                Ok(Asked {
                    workload,
                    key: WorkloadKey::generate()?,
                    spiffe_id: member.wanted.clone(),
                })
            })
            .collect()
    }

    /// Takes over the certificates that were issued for `asked`: all of them, or none where one is
    /// not as it should be. The answer's state has to be [learned](Self::learn) before.
    ///
    /// Those that this machine's calendar says are not valid now are an error as well. They are
    /// taken over where nothing better is held, as it may be this machine's clock that is wrong and
    /// will be set right.
    pub(crate) fn obtain(
        &mut self,
        asked: Vec<Asked>,
        certificates: Vec<v1::Certificate>,
        now: Now,
        fraction: f64,
    ) -> Result<(), AnswerError> {
        let all = self.check(asked, certificates, now, fraction)?;
        let mut valid = Ok(());
        for (workload, held) in all {
            let is_valid = held.check_clock(now);
            if let Some(member) = self.workloads.get_mut(workload)
                && (is_valid.is_ok() || !member.can_prove_itself(now))
            {
                member.held = Some(held);
                member.useless = None;
            }
            valid = valid.and(is_valid);
        }
        valid
    }

    /// As [`Standing::obtain`], but hands the certificates out, each with its workload's place.
    pub(crate) fn check(
        &self,
        asked: Vec<Asked>,
        certificates: Vec<v1::Certificate>,
        now: Now,
        fraction: f64,
    ) -> Result<Vec<(usize, Held)>, AnswerError> {
        let (got, want) = (certificates.len(), asked.len());
        let Some(state) = self.state.as_ref().filter(|_| got == want) else {
            return Err(AnswerError::Count { got, want });
        };
        asked
            .into_iter()
            .zip(certificates)
            .map(|(asked, certificate)| {
                let Asked {
                    workload,
                    key,
                    spiffe_id,
                } = asked;
                let held = Held::check(
                    certificate,
                    key,
                    spiffe_id.as_ref(),
                    state,
                    self.simulated,
                    now,
                    fraction,
                )?;
                Ok((workload, held))
            })
            .collect()
    }

    /// What the workload at this place may use; `None` while there is nothing to say.
    pub(crate) fn use_of(&self, workload: usize) -> Option<Use> {
        let member = self.workloads.get(workload)?;
        let (Some(held), Some(state)) = (&member.held, &self.state) else {
            let wanted = member.wanted.as_ref().filter(|_| !self.may_ask(member))?;
            return Some(Use::Nothing(Arc::new(NoUse::NotHosted(wanted.clone()))));
        };
        let Some(tls) = &held.tls else {
            return member.useless.clone().map(Use::Nothing);
        };
        let membership = if self.is_withdrawn {
            nobody()
        } else {
            state.membership(&held.identity)
        };
        Some(Use::Certificate(Issued {
            tls: Arc::clone(tls),
            membership,
        }))
    }

    /// Whether the workload at this place may have a certificate and does not.
    pub(crate) fn lacks_certificate(&self, workload: usize) -> bool {
        let member = self.workloads.get(workload);
        member.is_some_and(|member| member.held.is_none() && self.may_ask(member))
    }

    /// Whether a certificate may be asked for `asked`, by what is known now.
    pub(crate) fn may_have(&self, asked: &Asked) -> bool {
        let member = self.workloads.get(asked.workload);
        member.is_some_and(|member| self.may_ask(member))
    }

    /// What to tell the Coordinator once all of that is in use: the newest generation that is
    /// trusted, and the oldest of the certificates. `None` while there is no certificate.
    pub(crate) fn acknowledgement(&self) -> Option<(u64, u64)> {
        let oldest = self.held().map(|held| held.generation).min()?;
        Some((self.state.as_ref()?.generation, oldest))
    }

    /// What to do now.
    pub(crate) fn decide(&self, now: Now) -> Decision {
        let decisions = self
            .workloads
            .iter()
            .filter(|member| self.may_ask(member))
            .map(|member| self.decide_for(member, now));
        let mut wait = Duration::MAX;
        for decision in decisions {
            match decision {
                Decision::Enrol(_) => return decision,
                Decision::Wait(this) => wait = wait.min(this),
            }
        }
        Decision::Wait(wait.min(LONGEST_WAIT))
    }

    /// When the first of the certificates ends its use; `None` without any.
    pub(crate) fn earliest(&self) -> Option<&Renewal> {
        self.held()
            .map(|held| &held.renewal)
            .min_by_key(|renewal| renewal.end())
    }

    /// Whether every certificate that is held is valid by this machine's calendar.
    pub(crate) fn is_valid(&self, now: Now) -> bool {
        self.held().all(|held| held.renewal.is_valid(now))
    }

    /// When the first of the certificates expires; `None` without any.
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        self.held().map(|held| held.not_after).min()
    }

    fn decide_for(&self, member: &Member, now: Now) -> Decision {
        let Some(held) = &member.held else {
            return Decision::Enrol(Reason::NoCertificate);
        };
        if held.renewal.is_due(now) {
            return Decision::Enrol(Reason::Age);
        }
        let wait = held.renewal.wait(now);
        let Some(state) = &self.state else {
            return Decision::Wait(wait);
        };
        // Of certificates that the same history issued no other would be better.
        let is_outdated = held.seq < state.head().seq;
        let is_old = held.generation < state.required_generation || held.tls.is_none();
        if is_outdated && is_old {
            let at = self.replace_at.unwrap_or(now.instant);
            let left = at.saturating_duration_since(now.instant);
            return if left.is_zero() {
                Decision::Enrol(Reason::OldGeneration)
            } else {
                Decision::Wait(left.min(wait))
            };
        }
        if is_outdated && member.wanted.is_none() && !state.access.contains_key(&held.identity) {
            return Decision::Enrol(Reason::OtherIdentity);
        }
        Decision::Wait(wait)
    }

    /// Before anything is known, all may.
    fn may_ask(&self, member: &Member) -> bool {
        match (&self.state, &member.wanted) {
            (Some(state), Some(wanted)) => state.access.contains_key(wanted),
            _ => true,
        }
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.workloads
            .iter()
            .filter(|member| self.may_ask(member))
            .filter_map(|member| member.held.as_ref())
    }
}

/// Why what a Coordinator says of the mesh is not taken over.
#[derive(Debug, Error)]
pub(crate) enum UntrustedState {
    /// It is not well-formed, or its signature is wrong.
    #[error(transparent)]
    State(#[from] StateError),
    /// It is another deployment's, or older than what was seen.
    #[error(transparent)]
    Distrust(#[from] Distrust),
}

/// Over how long agents spread out the replacement of their certificates, when that much is left
/// until the deadline; nothing is left for `None`.
fn spread(left: Option<Duration>) -> Duration {
    match left {
        None => AT_ONCE,
        Some(left) => (left / 20).clamp(AT_ONCE, LONGEST_SPREAD),
    }
}

const AT_ONCE: Duration = Duration::from_millis(200);
const LONGEST_SPREAD: Duration = Duration::from_secs(10);

/// Something may have been overlooked.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests;
