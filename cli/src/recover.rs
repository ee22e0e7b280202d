//! `sealwire recover`: one owner's share of the seed.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use api::v1;
use clap::Args;
use manifest::Manifest;
use seed::{MAX_DOCUMENT, SharesDocument};

use crate::client::{CoordinatorArgs, block_on, refusal};
use crate::failure::Failure;
use crate::files;
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
        let key = files::read_secret(&self.seedshare_owner_key)?;
        let own = self.seed.as_ref().map(|path| {
            SharesDocument::parse(&files::read(path, MAX_DOCUMENT)?)
                .with_context(|| path.display().to_string())
                .map_err(Failure::Usage)
        });
        let own = own.transpose()?;
        let known = remembered(&self.verified)?;
        block_on(async {
            let (mut client, _) = self.coordinator.connect(&manifest).await?;
            let status = client.get_status(v1::GetStatusRequest {}).await;
            let status = status.map_err(|status| refusal(&status))?.into_inner();
            let document = document(own, &status, &manifest)?;
            let share = document
                .decrypt(&key)
                .with_context(|| self.seedshare_owner_key.display().to_string())?;
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
                let more = need.saturating_sub(have);
                format!("share {have} of {need}: {more} more to go\n")
            })
        })
    }
}

/// The shares to recover with. What the Coordinator shows comes from its store, where nobody vouches
/// for it before the seed is back; so it has to be what this owner knows.
fn document(
    own: Option<SharesDocument>,
    status: &v1::Status,
    manifest: &Manifest,
) -> anyhow::Result<SharesDocument> {
    match status.phase() {
        v1::Phase::Recovery => {}
        v1::Phase::Ready => {
            return Err(anyhow!(
                "the Coordinator has its seed: there is nothing to recover"
            ));
        }
        _ => {
            return Err(anyhow!(
                "the Coordinator has no manifest: there is nothing to recover. Should there be, its \
                 store was lost or is another one (--store)"
            ));
        }
    }
    if status.manifest != manifest.hash().0 {
        return Err(anyhow!(
            "the Coordinator's store has another manifest ({}) than the one given ({}): recover \
             with the manifest in force; if it was given, the store was rolled back or forged",
            hex::encode(&status.manifest),
            manifest.hash()
        ));
    }
    let stored = SharesDocument::parse(&status.seed_shares).context("the store's seed shares")?;
    match own {
        Some(own) if own.hash() != stored.hash() => Err(anyhow!(
            "--seed has other shares than the Coordinator's store: they are stale (`sealwire set` \
             writes new ones when their owners change), or the store was forged"
        )),
        _ => Ok(stored),
    }
}

const EXAMPLES: &str = "\
Example, by each owner in turn:
  sealwire recover -c coordinator:1313 -m manifest.json --seedshare-owner-key alice-share.pem --seed seed-shares.json";
