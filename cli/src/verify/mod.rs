//! `sealwire verify`: what a data owner does before sending data.

mod deployment;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use api::v1;
use attestation::Digest;
use clap::Args;
use history::Head;

use self::deployment::VerifiedDeployment;
use crate::client::{CoordinatorArgs, block_on, refusal};
use crate::failure::Failure;
use crate::set::write_file;

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
            let status = client.get_status(v1::GetStatusRequest {}).await;
            let status = status.map_err(|status| refusal(&status))?.into_inner();
            let history = client.get_history(v1::GetHistoryRequest {}).await;
            let mut history = history.map_err(|status| refusal(&status))?.into_inner();
            let mut entries = Vec::new();
            while let Some(entry) = history.message().await.map_err(|it| refusal(&it))? {
                entries.push(entry);
            }
            Ok((VerifiedDeployment::verify(&status, entries)?, peer))
        })?;
        if let Some(known) = known {
            deployment.chain.check_extends(&known).with_context(|| {
                format!(
                    "the history is not the one that {} remembers",
                    self.out.display()
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

/// Where history was when it was verified last.
pub(crate) fn remembered(dir: &Path) -> Result<Option<Head>, Failure> {
    let path = dir.join(LATEST);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("can't read {}", path.display()))?,
    };
    let head = || {
        let (seq, hash) = text.trim().split_once(' ')?;
        Some(Head {
            seq: seq.parse().ok()?,
            hash: Digest::from_hex(hash)?,
        })
    };
    head().map(Some).ok_or_else(|| {
        Failure::usage(format!(
            "{} is not what `sealwire verify` writes (a number and a hash); restore it, or remove \
             it to trust the Coordinator's history anew",
            path.display()
        ))
    })
}

fn write(dir: &Path, deployment: &VerifiedDeployment) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    let mut files = vec![
        write_file(
            dir,
            "coordinator-root-ca.pem",
            deployment.root_ca.as_bytes(),
        )?,
        write_file(dir, "mesh-ca.pem", deployment.mesh_ca.as_bytes())?,
        write_file(
            dir,
            "transitions.json",
            deployment.transitions_json().as_bytes(),
        )?,
    ];
    for (number, manifest) in deployment.manifests.iter().enumerate() {
        let name = format!("manifest.{number}.json");
        files.push(write_file(dir, &name, manifest.bytes())?);
    }
    for (digest, document) in &deployment.policies {
        let name = format!("policy.{digest}.rego");
        files.push(write_file(dir, &name, document)?);
    }
    // Last: what it says is true only when all else is there.
    let head = deployment.chain.head();
    let latest = format!("{} {}\n", head.seq, head.hash);
    files.push(write_file(dir, LATEST, latest.as_bytes())?);
    Ok(files)
}

const LATEST: &str = "latest-transition";

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
