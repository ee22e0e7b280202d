//! How commands reach a Coordinator: after it has proved itself against a manifest.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use api::client::{ExpectedCoordinator, user_api};
use api::v1::user_api_client::UserApiClient;
use attestation::{Code, Refusals, SimulatedTee, Verifier};
use attested_tls::{AttestedTlsError, Peer};
use clap::Args;
use manifest::Manifest;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::colour::red;
use crate::failure::Failure;
use crate::files;

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
            let warning = "warning: the manifest trusts a simulated TEE: nothing here is protected";
            let stderr = io::stderr();
            let _ = writeln!(&stderr, "{}", red(warning, &stderr));
        }
        let until = Instant::now() + Duration::from_secs(self.wait);
        loop {
            match user_api(&self.coordinator, Arc::clone(&expected)).await {
                Err(AttestedTlsError::Io(_) | AttestedTlsError::Deadline { .. })
                    if Instant::now() < until =>
                {
                    sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(self.unreachable(&error).into()),
                Ok(connected) => return Ok(connected),
            }
        }
    }

    fn unreachable(&self, error: &AttestedTlsError) -> anyhow::Error {
        let coordinator = &self.coordinator;
        match error {
            AttestedTlsError::Refused { refusals, .. } => anyhow!(
                "the Coordinator at {coordinator} is not what {} says, and nothing was sent to \
                 it:{}",
                self.manifest.display(),
                objections(refusals)
            ),
            AttestedTlsError::Io(_) | AttestedTlsError::Deadline { .. } => anyhow!(
                "no answer from a Coordinator at {coordinator}: {error}; is it running, and is \
                 this its user API (port 1313)? --wait SECONDS waits for it"
            ),
            _ => anyhow!(
                "no Coordinator at {coordinator}: {error}; is this its user API (port 1313)?"
            ),
        }
    }
}

fn objections(refusals: &Refusals) -> String {
    let mut text = String::new();
    for (reference, refusal) in refusals.iter() {
        let reference = match reference {
            "" => String::new(),
            name => format!("{name}: "),
        };
        let hint = match refusal.code {
            Code::HostData => {
                "it runs under another policy than that of the manifest's Coordinator"
            }
            code => code.hint(),
        };
        // Writing to a String does not fail.
        let _ = write!(text, "\n  {reference}{refusal}\n    ({hint})");
    }
    text
}

/// Reads a manifest; gives every error in it.
pub(crate) fn read_manifest(path: &Path) -> Result<Manifest, Failure> {
    // One byte more than there may be: too long a manifest is an error like others.
    let bytes = files::read_start(path, Manifest::MAX_BYTES + 1)?;
    Manifest::parse(&bytes).map_err(|errors| {
        let errors = errors.to_string().replace('\n', "\n  ");
        Failure::usage(format!("{} is not valid:\n  {errors}", path.display()))
    })
}

/// What the Coordinator refused, in its words.
pub(crate) fn refusal(status: &tonic::Status) -> anyhow::Error {
    let message = status.message();
    let header = |name| status.metadata().get(name).and_then(|it| it.to_str().ok());
    let (Some(code), Some(id)) = (header(api::CODE), header(api::ID)) else {
        return anyhow!(
            "the Coordinator did not answer: {message}; it may have stopped: `sealwire status`"
        );
    };
    // Of the caller's own input there is more to say than this.
    let log = if message == format!("{code} (id {id})") {
        "; its log has the reason under that id"
    } else {
        ""
    };
    let hint = match code {
        "not-authorised" => {
            "\nAs many owners as the manifest in force demands must sign this manifest after the \
             latest transition (`sealwire status`): --workload-owner-key, or --signature and \
             --signer (`sealwire sign`)"
        }
        "store-unavailable" => {
            "\nThe Coordinator's store, its disk or etcd, does not answer. What was set before is \
             safe; whether this was set is known when the store is back: `sealwire status`"
        }
        "store-full" => {
            "\nThe Coordinator's store is full. What was set before is safe, and this was not set: \
             make space, then try again"
        }
        _ => "",
    };
    anyhow!("the Coordinator refused: {message}{log}{hint}")
}

/// Runs a command that talks to the network.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)?
        .block_on(work)
}
