//! `sealwire recover`: one owner's share of the seed.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use api::v1;
use clap::Args;
use seed::SharesDocument;
use zeroize::Zeroizing;

use crate::client::{CoordinatorArgs, block_on, refusal};
use crate::failure::Failure;
use crate::verify::remembered;

/// Give a restarted Coordinator this owner's share of the seed.
///
/// The Coordinator is verified first. Each owner does so from a machine of their own; with as many
/// as the manifest demands, the Coordinator is itself again, and no agent restarts.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Recover {
    #[command(flatten)]
    coordinator: CoordinatorArgs,

    /// The owner's RSA private key: PKCS #8 or PKCS #1, PEM
    #[arg(long, value_name = "FILE")]
    seedshare_owner_key: PathBuf,

    /// The shares that `sealwire set` wrote [default: those that the Coordinator's store has]
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,

    /// What `sealwire verify` wrote: a Coordinator whose store is older is refused
    #[arg(long, value_name = "DIR", default_value = "verify")]
    verified: PathBuf,
}

impl Recover {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let manifest = self.coordinator.manifest()?;
        let key = fs::read_to_string(&self.seedshare_owner_key)
            .map(Zeroizing::new)
            .with_context(|| format!("can't read {}", self.seedshare_owner_key.display()))?;
        let known = remembered(&self.verified)?;
        block_on(async {
            let (mut client, _) = self.coordinator.connect(&manifest).await?;
            let document = match &self.seed {
                Some(path) => {
                    fs::read(path).with_context(|| format!("can't read {}", path.display()))?
                }
                None => {
                    let status = client.get_status(v1::GetStatusRequest {}).await;
                    status
                        .map_err(|status| refusal(&status))?
                        .into_inner()
                        .seed_shares
                }
            };
            let share = SharesDocument::parse(&document)
                .context("seed-shares.json")?
                .decrypt(&key)?;
            let request = v1::RecoverRequest {
                share: share.encode().to_vec(),
                known: known.map(|head| v1::Head {
                    seq: head.seq,
                    transition: head.hash.0.to_vec(),
                }),
            };
            let answer = client.recover(request).await;
            let v1::RecoverResponse {
                have,
                need,
                recovered,
            } = answer.map_err(|status| refusal(&status))?.into_inner();
            Ok(if recovered {
                format!("share {have} of {need}: the Coordinator is recovered\n")
            } else {
                format!("share {have} of {need}: {} more to go\n", need - have)
            })
        })
    }
}

const EXAMPLES: &str = "\
Example, by each owner in turn:
  sealwire recover -c coordinator:1313 -m manifest.json --seedshare-owner-key alice-share.pem --seed seed-shares.json";
