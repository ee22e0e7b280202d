//! The deployment's Coordinators, each of which can do everything: whoever answers is asked.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use api::client::{ExpectedCoordinator, mesh_api};
use api::v1::mesh_api_client::MeshApiClient;
use attestation::{Digest, SimulatedTee, Verifier};
use attested_tls::Offer;
use attester::{AttesterError, EndorsementFiles, EvidenceSource, Paths, SimulatedTeeFile, detect};
use manifest::Manifest;
use tonic::transport::Channel;

use super::error::{SetupError, Why};
use super::random;
use crate::config::{Coordinator, CoordinatorAddress, Tee};

/// Whom to ask, what they have to prove, and what this machine proves.
#[derive(Debug)]
pub(crate) struct Coordinators {
    addresses: Vec<CoordinatorAddress>,
    expected: Arc<ExpectedCoordinator>,
    evidence: Arc<dyn EvidenceSource>,
}

impl Coordinators {
    /// Reads the manifest and looks for a TEE.
    pub(crate) fn find(config: &Coordinator) -> Result<Self, SetupError> {
        let expected = expected(&config.manifest, config.allow_simulated_tee)?;
        Ok(Self {
            addresses: config.addresses.clone(),
            expected: Arc::new(expected),
            evidence: evidence(&config.tee)?,
        })
    }

    /// An attested connection, on which this machine's evidence vouches for keys.
    pub(crate) async fn connect(
        &self,
        address: &CoordinatorAddress,
        certified_keys: Vec<Digest>,
    ) -> Result<MeshApiClient<Channel>, Why> {
        let offer = Offer {
            evidence: Some(Arc::clone(&self.evidence)),
            manifest: None,
            certified_keys,
        };
        let connected = mesh_api(address.as_str(), Arc::clone(&self.expected), offer).await;
        let (client, _) = connected.map_err(Box::new)?;
        Ok(client)
    }

    /// Their turns, of which any may be the first, so that not all agents begin with the same.
    pub(crate) fn turns(&self) -> Turns {
        Turns {
            addresses: self.addresses.clone(),
            next: random::below(self.addresses.len()),
            failures: 0,
        }
    }
}

/// Whose turn it is to be asked.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    addresses: Vec<CoordinatorAddress>,
    next: usize,
    failures: usize,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask the next one at once.
    AtOnce,
    /// Each was asked: rest.
    AfterPause,
}

impl Turns {
    /// Who is to be asked.
    pub(crate) fn current(&self) -> CoordinatorAddress {
        // There is at least one, and `next` is one of their places.
        self.addresses[self.next].clone()
    }

    /// It was of no use.
    pub(crate) fn failed(&mut self) -> Next {
        self.next = (self.next + 1) % self.addresses.len();
        self.failures += 1;
        if self.failures < self.addresses.len() {
            Next::AtOnce
        } else {
            self.failures = 0;
            Next::AfterPause
        }
    }

    /// It was, and is to be asked again.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

fn expected(path: &Path, allow_simulated_tee: bool) -> Result<ExpectedCoordinator, SetupError> {
    let manifest = read_manifest(path)?;
    let reference_values = manifest.reference_values().clone();
    let simulated = if allow_simulated_tee {
        SimulatedTee::Allowed
    } else {
        SimulatedTee::Refused
    };
    if simulated == SimulatedTee::Refused && !reference_values.simulated.is_empty() {
        return Err(SetupError::Simulated {
            path: path.to_owned(),
        });
    }
    let (policy, _) = manifest.coordinator();
    Ok(ExpectedCoordinator::new(
        Verifier::new(simulated),
        reference_values,
        *policy,
    ))
}

fn read_manifest(path: &Path) -> Result<Manifest, SetupError> {
    let mut bytes = Vec::new();
    // A longer one is refused by its length.
    let limit = Manifest::MAX_BYTES as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|source| SetupError::Read {
            path: path.to_owned(),
            source,
        })?;
    Manifest::parse(&bytes).map_err(|errors| SetupError::Manifest {
        path: path.to_owned(),
        errors,
    })
}

fn evidence(tee: &Tee) -> Result<Arc<dyn EvidenceSource>, AttesterError> {
    match tee {
        Tee::Simulated { simulated_tee } => {
            Ok(Arc::new(SimulatedTeeFile::read(simulated_tee)?.source()?))
        }
        Tee::Hardware {
            vek,
            crl,
            collateral,
        } => {
            let endorsements = EndorsementFiles {
                vek: vek.clone(),
                crl: crl.clone(),
                collateral: collateral.clone(),
            };
            let paths = Paths {
                endorsements,
                ..Paths::default()
            };
            Ok(Arc::from(detect(&paths)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(count: u16) -> Turns {
        Turns {
            addresses: (1..=count)
                .map(|number| format!("coordinator-{number}").parse().unwrap())
                .collect(),
            next: 0,
            failures: 0,
        }
    }

    #[test]
    fn each_is_asked_before_there_is_a_pause_and_one_that_answers_is_kept() {
        let mut turns = turns(3);
        let mut asked = Vec::new();
        let mut pauses = Vec::new();
        for _ in 0..4 {
            asked.push(turns.current().to_string());
            pauses.push(turns.failed() == Next::AfterPause);
        }
        let places = ["1", "2", "3", "1"].map(|it| format!("coordinator-{it}:7777"));
        assert_eq!(asked, places);
        assert_eq!(pauses, [false, false, true, false]);
        turns.succeeded();
        assert_eq!(turns.current().as_str(), "coordinator-2:7777");
        assert_eq!(turns.failed(), Next::AtOnce);
    }

    #[test]
    fn after_each_failure_of_the_only_one_there_is_a_pause() {
        let mut turns = turns(1);
        assert_eq!(turns.failed(), Next::AfterPause);
        assert_eq!(turns.failed(), Next::AfterPause);
        assert_eq!(turns.current().as_str(), "coordinator-1:7777");
    }
}
