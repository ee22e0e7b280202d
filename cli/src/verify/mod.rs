//! `sealwire verify`: what a data owner does before sending data.

mod deployment;
mod words;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use api::v1;
use api::v1::user_api_client::UserApiClient;
use attestation::Digest;
use clap::Args;
use history::Head;
use tonic::transport::Channel;

use self::deployment::VerifiedDeployment;
use crate::client::{CoordinatorArgs, block_on, refusal};
use crate::failure::Failure;
use crate::files::{self, write_in};

/// Verify a deployment, and write down what may then be trusted.
///
/// The Coordinator must prove that it runs what the manifest says. Then its whole history is
/// verified, and its manifest must be the one given, byte for byte. Nothing is written unless all
/// of it holds.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Verify {
    #[command(flatten)]
    coordinator: CoordinatorArgs,

    /// Where the certificates, manifests, policies and transitions go. What an earlier run wrote
    /// there is remembered: an older or rewritten history is refused
    #[arg(short, long, value_name = "DIR", default_value = "verify")]
    out: PathBuf,
}

impl Verify {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let manifest = self.coordinator.manifest()?;
        let known = remembered(&self.out)?;
        let (deployment, peer) = block_on(async {
            let (mut client, peer) = self.coordinator.connect(&manifest).await?;
            let (status, entries) = read(&mut client).await?;
            Ok((VerifiedDeployment::verify(&status, entries)?, peer))
        })?;
        if let Some(known) = known {
            let extends = deployment.chain.check_extends(&known);
            extends.with_context(|| {
                format!(
                    "this is not the history that {} remembers; who expects a new deployment \
                     verifies into another --out",
                    self.out.join(LATEST).display()
                )
            })?;
        }
        let active = deployment.active();
        if active.bytes() != manifest.bytes() {
            return Err(anyhow!(
                "active manifest does not match expected manifest: the Coordinator has {}, \
                 expected {}; `sealwire manifest diff` tells the two apart",
                active.hash(),
                manifest.hash()
            )
            .into());
        }
        let files = write(&self.out, &deployment)?;
        Ok(words::report(&deployment, &peer, &files))
    }
}

/// Status and history of the same moment: both change with each step of a rotation.
async fn read(
    client: &mut UserApiClient<Channel>,
) -> Result<(v1::Status, Vec<v1::HistoryEntry>), Failure> {
    let mut attempts_left = 10;
    let mut before = status(client).await?;
    loop {
        let history = client.get_history(v1::GetHistoryRequest {}).await;
        let mut history = history.map_err(|status| refusal(&status))?.into_inner();
        let mut entries = Vec::new();
        while let Some(entry) = history.message().await.map_err(|it| refusal(&it))? {
            entries.push(entry);
        }
        let after = status(client).await?;
        attempts_left -= 1;
        if before.head == after.head || attempts_left == 0 {
            return Ok((after, entries));
        }
        before = after;
    }
}

async fn status(client: &mut UserApiClient<Channel>) -> Result<v1::Status, Failure> {
    let status = client.get_status(v1::GetStatusRequest {}).await;
    Ok(status.map_err(|status| refusal(&status))?.into_inner())
}

/// Where history was when it was verified last.
pub(crate) fn remembered(dir: &Path) -> Result<Option<Head>, Failure> {
    let path = dir.join(LATEST);
    if fs::symlink_metadata(&path).is_err_and(|it| it.kind() == ErrorKind::NotFound) {
        return Ok(None);
    }
    let text = files::read(&path, MAX_LATEST_BYTES)?;
    let text = String::from_utf8_lossy(&text);
    let head = || {
        let (seq, hash) = text.trim().split_once(' ')?;
        Some(Head {
            seq: seq.parse().ok()?,
            hash: Digest::from_hex(hash)?,
        })
    };
    head().map(Some).ok_or_else(|| {
        Failure::usage(format!(
            "{} is not what `sealwire verify` writes (a number and a hash): restore it, or verify \
             into another --out, which trusts the Coordinator's history anew",
            path.display()
        ))
    })
}

fn write(dir: &Path, deployment: &VerifiedDeployment) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    let mut files = vec![
        write_in(
            dir,
            "coordinator-root-ca.pem",
            deployment.root_ca.as_bytes(),
        )?,
        write_in(dir, "mesh-ca.pem", deployment.mesh_ca.as_bytes())?,
        write_in(
            dir,
            "transitions.json",
            deployment.transitions_json().as_bytes(),
        )?,
    ];
    for (number, manifest) in deployment.manifests.iter().enumerate() {
        let name = format!("manifest.{number}.json");
        files.push(write_in(dir, &name, manifest.bytes())?);
    }
    for (digest, document) in &deployment.policies {
        let name = format!("policy.{digest}.rego");
        files.push(write_in(dir, &name, document)?);
    }
    // Last: what it says is true only when all else is there.
    let head = deployment.chain.head();
    let latest = format!("{} {}\n", head.seq, head.hash);
    files.push(write_in(dir, LATEST, latest.as_bytes())?);
    Ok(files)
}

const LATEST: &str = "latest-transition";
const MAX_LATEST_BYTES: usize = 128;

const EXAMPLES: &str = "\
Example:
  sealwire verify -c coordinator:1313 -m manifest.json
  curl --cacert verify/coordinator-root-ca.pem https://web.example/

Writes into verify/:
  coordinator-root-ca.pem   root CA: the same for the life of the deployment
  mesh-ca.pem               mesh CA: workloads of this very manifest alone
  manifest.N.json           every manifest that was ever in force, the oldest is 0
  policy.HASH.rego          every policy document that the Coordinator was given
  transitions.json          the signed history
  latest-transition         where history was; the next `sealwire verify` refuses an older one";
