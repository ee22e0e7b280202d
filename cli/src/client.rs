//! How commands reach a Coordinator: after it has proved itself against a manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use api::client::{ExpectedCoordinator, user_api};
use api::v1::user_api_client::UserApiClient;
use attestation::{SimulatedTee, Verifier};
use attested_tls::{AttestedTlsError, Peer};
use clap::Args;
use manifest::Manifest;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::failure::Failure;

/// Which Coordinator, and what it must prove.
#[derive(Args, Clone, Debug)]
pub(crate) struct CoordinatorArgs {
    /// The Coordinator's user API
    #[arg(
        short,
        long,
        value_name = "HOST:PORT",
        env = "SEALWIRE_COORDINATOR_USER_API"
    )]
    coordinator: String,

    /// The manifest, whose reference values and Coordinator policy the Coordinator must prove
    #[arg(short, long, value_name = "FILE", default_value = "manifest.json")]
    manifest: PathBuf,

    /// Accept a Coordinator on the simulated TEE, where the manifest lists it: proves nothing
    #[arg(long)]
    allow_simulated_tee: bool,

    /// How long to wait for a Coordinator that does not answer yet, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
}

impl CoordinatorArgs {
    /// Reads and checks the manifest.
    pub(crate) fn manifest(&self) -> Result<Manifest, Failure> {
        read_manifest(&self.manifest)
    }

    /// Opens a connection on which the Coordinator has proved itself.
    pub(crate) async fn connect(
        &self,
        manifest: &Manifest,
    ) -> Result<(UserApiClient<Channel>, Arc<Peer>), Failure> {
        let simulated = if self.allow_simulated_tee {
            SimulatedTee::Allowed
        } else {
            SimulatedTee::Refused
        };
        let expected = Arc::new(ExpectedCoordinator::new(
            Verifier::new(simulated),
            manifest.reference_values().clone(),
            *manifest.coordinator().0,
        ));
        if !manifest.reference_values().simulated.is_empty() {
            eprintln!(
                "{RED}warning: the manifest trusts a simulated TEE: nothing here is \
                 protected{PLAIN}"
            );
        }
        let until = Instant::now() + Duration::from_secs(self.wait);
        loop {
            match user_api(&self.coordinator, Arc::clone(&expected)).await {
                Err(AttestedTlsError::Io(_)) if Instant::now() < until => {
                    sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(self.refused(&error).into()),
                Ok(connected) => return Ok(connected),
            }
        }
    }

    fn refused(&self, error: &AttestedTlsError) -> anyhow::Error {
        let coordinator = &self.coordinator;
        let hint = match error {
            AttestedTlsError::Io(_) => {
                "is it running, and is the port that of its user API (1313)?"
            }
            AttestedTlsError::Refused { .. } => {
                "it does not run what the manifest says: nothing was sent to it"
            }
            _ => "is it a Sealwire Coordinator, and its user API (1313)?",
        };
        anyhow!("the Coordinator at {coordinator}: {error}; {hint}")
    }
}

/// Reads a manifest; gives every error in it.
pub(crate) fn read_manifest(path: &Path) -> Result<Manifest, Failure> {
    let bytes = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    Manifest::parse(&bytes)
        .map_err(|errors| Failure::usage(format!("{} is not valid:\n{errors}", path.display())))
}

/// What the Coordinator refused, in its words.
pub(crate) fn refusal(status: &tonic::Status) -> anyhow::Error {
    if status.metadata().contains_key(api::CODE) {
        anyhow!(
            "the Coordinator refused: {}; its log has the reason under that id",
            status.message()
        )
    } else {
        anyhow!("the Coordinator did not answer: {}", status.message())
    }
}

/// Runs a command that talks to the network.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)?
        .block_on(work)
}

pub(crate) const RED: &str = "\x1b[1;31m";
pub(crate) const PLAIN: &str = "\x1b[0m";
