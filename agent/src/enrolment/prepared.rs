//! What can be found out before anything is done.

use attestation::identity::SpiffeId;
use aws_lc_rs::rand;

use super::coordinators::Coordinators;
use super::error::SetupError;
use super::held::SimulatedCertificates;
use super::memory::Memory;
use super::standing::Standing;
use crate::config::Coordinator;

/// The files are read, the TEE is found; no Coordinator was asked yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(super) coordinators: Coordinators,
    pub(super) standing: Standing,
    /// What the agent calls itself for as long as it lives.
    pub(super) instance: [u8; 16],
}

impl Prepared {
    /// For workloads that ask for these identities; `None` is the agent's own.
    pub(crate) fn new(
        config: &Coordinator,
        wanted: Vec<Option<SpiffeId>>,
    ) -> Result<Self, SetupError> {
        let coordinators = Coordinators::find(config)?;
        let memory = Memory::open(config.state_dir.as_deref())?;
        let simulated = SimulatedCertificates::of(config);
        let mut instance = [0; 16];
        rand::fill(&mut instance).map_err(|_| SetupError::Random)?;
        Ok(Self {
            coordinators,
            standing: Standing::new(memory, simulated, wanted),
            instance,
        })
    }
}
