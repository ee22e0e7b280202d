//! `sealwire set`: a manifest takes effect.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use api::v1;
use attestation::Digest;
use clap::Args;
use history::update_statement;
use manifest::Manifest;

use crate::client::{CoordinatorArgs, block_on, refusal};
use crate::failure::Failure;
use crate::sign::{previous, read_owner_key};

/// Set the manifest: the first, or an update.
///
/// The Coordinator is verified against the manifest before anything is sent. An update needs the
/// signatures of as many owners as the manifest in force demands.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Set {
    #[command(flatten)]
    coordinator: CoordinatorArgs,

    /// A document that one of the manifest's policies is the digest of; may be repeated
    #[arg(long, value_name = "FILE")]
    policy: Vec<PathBuf>,

    /// The private key of an owner, PEM; may be repeated
    #[arg(long, value_name = "FILE")]
    workload_owner_key: Vec<PathBuf>,

    /// An owner's signature (`sealwire sign`); may be repeated, each with its --signer
    #[arg(long, value_name = "FILE")]
    signature: Vec<PathBuf>,

    /// The public key of a signature's owner, PEM, in the order of --signature
    #[arg(long, value_name = "FILE")]
    signer: Vec<PathBuf>,

    /// Refuse unless this is the latest transition (64 hexadecimal digits, or `none`)
    #[arg(long, value_name = "HASH", value_parser = previous)]
    previous: Option<Digest>,

    /// Where coordinator-root-ca.pem, mesh-ca.pem and seed-shares.json go
    #[arg(long, value_name = "DIR", default_value = ".")]
    workspace_dir: PathBuf,
}

impl Set {
    pub(crate) fn run(self) -> Result<String, Failure> {
        if self.signature.len() != self.signer.len() {
            return Err(Failure::usage(format!(
                "each --signature needs its --signer: got {} and {}",
                self.signature.len(),
                self.signer.len()
            )));
        }
        let manifest = self.coordinator.manifest()?;
        let policies = read_policies(&self.policy, &manifest)?;
        block_on(self.set(&manifest, policies))
    }

    async fn set(&self, manifest: &Manifest, policies: Vec<Vec<u8>>) -> Result<String, Failure> {
        let (mut client, _) = self.coordinator.connect(manifest).await?;
        let status = client.get_status(v1::GetStatusRequest {}).await;
        let status = status.map_err(|status| refusal(&status))?.into_inner();
        let head = match &status.head {
            None => Digest([0; 32]),
            Some(head) => head
                .transition
                .as_slice()
                .try_into()
                .map(Digest)
                .context("the Coordinator gives no proper transition hash")?,
        };
        // The signatures below are for this very head.
        let previous = self.previous.unwrap_or(head);
        let statement = update_statement(&manifest.hash(), &previous);
        let request = v1::SetManifestRequest {
            manifest: manifest.bytes().to_vec(),
            policies,
            authorisations: self.authorisations(&statement)?,
            previous_transition: Some(previous.0.to_vec()),
        };
        let set = client.set_manifest(request).await;
        let set = set.map_err(|status| refusal(&status))?.into_inner();
        self.report(manifest, &status, set)
    }

    fn authorisations(&self, statement: &str) -> Result<Vec<v1::Authorisation>, Failure> {
        let mut authorisations = Vec::new();
        for path in &self.workload_owner_key {
            let signed = read_owner_key(path)?.sign(statement)?;
            authorisations.push(v1::Authorisation {
                key: signed.key,
                signature: signed.signature,
            });
        }
        for (signature, signer) in self.signature.iter().zip(&self.signer) {
            let pem =
                fs::read(signer).with_context(|| format!("can't read {}", signer.display()))?;
            let (label, key) = pem_rfc7468::decode_vec(&pem)
                .map_err(|error| anyhow::anyhow!("{}: {error}", signer.display()))?;
            if label != "PUBLIC KEY" {
                return Err(Failure::usage(format!(
                    "{} is a {label}, not a PUBLIC KEY: openssl pkey -in KEY -pubout",
                    signer.display()
                )));
            }
            authorisations.push(v1::Authorisation {
                key,
                signature: fs::read(signature)
                    .with_context(|| format!("can't read {}", signature.display()))?,
            });
        }
        Ok(authorisations)
    }

    fn report(
        &self,
        manifest: &Manifest,
        before: &v1::Status,
        set: v1::SetManifestResponse,
    ) -> Result<String, Failure> {
        let dir = &self.workspace_dir;
        fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
        let mut text = String::new();
        let seq = set.head.as_ref().map_or(0, |head| head.seq);
        writeln!(
            text,
            "manifest {} is in force (transition {seq})",
            manifest.hash()
        )?;
        if before.head.is_none() && before.trust_on_first_use {
            writeln!(
                text,
                "note: the first manifest was taken on trust: this Coordinator has no --owner-key"
            )?;
        }
        let mut files = vec![
            ("coordinator-root-ca.pem", set.root_ca.into_bytes()),
            ("mesh-ca.pem", set.mesh_ca.into_bytes()),
        ];
        files.extend(set.seed_shares.map(|shares| ("seed-shares.json", shares)));
        for (name, contents) in files {
            writeln!(text, "  {}", write_file(dir, name, &contents)?.display())?;
        }
        Ok(text)
    }
}

fn read_policies(paths: &[PathBuf], manifest: &Manifest) -> Result<Vec<Vec<u8>>, Failure> {
    let mut documents = Vec::new();
    for path in paths {
        let document = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
        let digest = Digest::of(&document);
        if manifest.policy(&digest).is_none() {
            return Err(Failure::usage(format!(
                "{} has the digest {digest}, which is not among the manifest's Policies",
                path.display()
            )));
        }
        documents.push(document);
    }
    Ok(documents)
}

/// Writes a file whole or not at all.
pub(crate) fn write_file(dir: &Path, name: &str, contents: &[u8]) -> Result<PathBuf, Failure> {
    let path = dir.join(name);
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(dir)?;
        std::io::Write::write_all(&mut file, contents)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    };
    write().with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}

const EXAMPLES: &str = "\
Examples:
  sealwire set -c coordinator:1313 -m manifest.json --policy web.rego
  sealwire set -c coordinator:1313 -m manifest.json --workload-owner-key alice.pem
  sealwire set -c coordinator:1313 -m manifest.json --signature bob.sig --signer bob.pub.pem";
