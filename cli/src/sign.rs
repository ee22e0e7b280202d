//! `sealwire sign`: an owner's consent to an update.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use attestation::Digest;
use clap::Args;
use history::{OwnerKey, update_statement};

use crate::client::read_manifest;
use crate::failure::Failure;
use crate::files;

/// Sign a manifest as one of its owners, or write what a hardware module is to sign.
///
/// What is signed names the manifest and the transition that it follows, so that a signature is
/// good for one update of one deployment. `sealwire status` shows the latest transition.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Sign {
    /// The manifest that is to be set
    #[arg(short, long, value_name = "FILE", default_value = "manifest.json")]
    manifest: PathBuf,

    /// The latest transition (64 hexadecimal digits), or `none` for a first manifest
    #[arg(long, value_name = "HASH", value_parser = previous)]
    previous: Digest,

    /// Write the statement that a hardware module, or openssl, is to sign
    #[arg(long, conflicts_with = "workload_owner_key")]
    prepare: bool,

    /// The owner's private key: PKCS #8 or SEC 1, PEM
    #[arg(long, value_name = "FILE", required_unless_present = "prepare")]
    workload_owner_key: Option<PathBuf>,

    /// Where the statement or the signature goes
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

impl Sign {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let manifest = read_manifest(&self.manifest)?;
        let statement = update_statement(&manifest.hash(), &self.previous);
        let out = self.out.display();
        let (contents, what, next) = match &self.workload_owner_key {
            None => (
                statement.into_bytes(),
                "the statement",
                format!("openssl dgst -sha384 -sign KEY -out SIGNATURE {out}, or a module's like"),
            ),
            Some(path) => {
                let key = read_owner_key(path)?;
                let digest = key.digest();
                let authorisation = key.sign(&statement)?;
                if !manifest.workload_owners().contains(&digest) {
                    let _ = writeln!(
                        io::stderr(),
                        "note: this manifest does not list the key ({digest}); what counts is \
                         whether the manifest in force does"
                    );
                }
                let next = format!("sealwire set --signature {out} --signer PUBLIC_KEY");
                (authorisation.signature, "the signature", next)
            }
        };
        files::write(&self.out, &contents)?;
        Ok(format!(
            "wrote {what} over manifest {} to {out}\nnext: {next}\n",
            manifest.hash(),
        ))
    }
}

pub(crate) fn read_owner_key(path: &Path) -> Result<OwnerKey, Failure> {
    let pem = files::read_secret(path)?;
    OwnerKey::from_pem(&pem)
        .with_context(|| path.display().to_string())
        .map_err(Failure::Usage)
}

/// The hash of a transition, or `none`.
pub(crate) fn previous(text: &str) -> Result<Digest, String> {
    if text == "none" {
        return Ok(Digest([0; 32]));
    }
    Digest::from_hex(text).ok_or_else(|| "expected 64 hexadecimal digits, or none".to_owned())
}

const EXAMPLES: &str = "\
Examples:
  sealwire sign -m manifest.json --previous 5f3a... --workload-owner-key alice.pem -o alice.sig

With a hardware module, or openssl in its place:
  sealwire sign -m manifest.json --previous 5f3a... --prepare -o statement
  openssl dgst -sha384 -sign bob.pem -out bob.sig statement

Then: sealwire set -c HOST:1313 --signature alice.sig --signer alice.pub.pem --signature bob.sig --signer bob.pub.pem";
