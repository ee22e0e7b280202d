//! `sealwire set`: a manifest takes effect.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use api::{MAX_MESSAGE_BYTES, v1};
use attestation::Digest;
use clap::Args;
use history::{Authorisation, AuthorisationError, MAX_SIGNATURE, authorise, update_statement};
use manifest::Manifest;
use zeroize::Zeroizing;

use crate::client::{CoordinatorArgs, block_on, refusal};
use crate::failure::Failure;
use crate::files;
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
        // What the Coordinator answers must find its place.
        let dir = &self.workspace_dir;
        fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
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
        let authorisations = self.authorisations(manifest, &previous)?;
        let request = v1::SetManifestRequest {
            manifest: manifest.bytes().to_vec(),
            policies,
            authorisations: authorisations
                .into_iter()
                .map(|it| v1::Authorisation {
                    key: it.key,
                    signature: it.signature,
                })
                .collect(),
            previous_transition: Some(previous.0.to_vec()),
        };
        let set = client.set_manifest(request).await;
        let set = set.map_err(|status| refusal(&status))?.into_inner();
        self.report(manifest, &status, set)
    }

    fn authorisations(
        &self,
        manifest: &Manifest,
        previous: &Digest,
    ) -> Result<Vec<Authorisation>, Failure> {
        let statement = update_statement(&manifest.hash(), previous);
        let mut authorisations = Vec::new();
        for path in &self.workload_owner_key {
            authorisations.push(read_owner_key(path)?.sign(&statement)?);
        }
        for (path, signer) in self.signature.iter().zip(&self.signer) {
            let authorisation = Authorisation {
                key: read_signer(signer)?,
                signature: files::read(path, MAX_SIGNATURE)?,
            };
            let one = std::slice::from_ref(&authorisation);
            match authorise(&[authorisation.key_digest()], 1, &statement, one) {
                Ok(()) => {}
                Err(AuthorisationError::UnsupportedKey { .. }) => {
                    return Err(Failure::usage(format!(
                        "{} is no ECDSA key on P-256 or P-384 with uncompressed point",
                        signer.display()
                    )));
                }
                Err(_) => {
                    return Err(Failure::usage(format!(
                        "{} is not the signature of {} over this manifest ({}) after transition \
                         {previous}: sign again, with that --previous",
                        path.display(),
                        signer.display(),
                        manifest.hash()
                    )));
                }
            }
            authorisations.push(authorisation);
        }
        Ok(authorisations)
    }

    fn report(
        &self,
        manifest: &Manifest,
        before: &v1::Status,
        set: v1::SetManifestResponse,
    ) -> Result<String, Failure> {
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
            let path = files::write_in(&self.workspace_dir, name, &contents).map_err(in_force)?;
            writeln!(text, "  {}", path.display())?;
        }
        text.push_str("next: `sealwire verify`\n");
        Ok(text)
    }
}

/// That a file can't be written does not take the manifest back.
fn in_force(failure: Failure) -> Failure {
    match failure {
        Failure::Failed(error) => Failure::Failed(error.context(
            "the manifest is in force, but its files are not all there (`sealwire verify` writes \
             the certificates again)",
        )),
        other => other,
    }
}

fn read_policies(paths: &[PathBuf], manifest: &Manifest) -> Result<Vec<Vec<u8>>, Failure> {
    let mut documents = Vec::new();
    for path in paths {
        let document = files::read(path, MAX_MESSAGE_BYTES)?;
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

fn read_signer(path: &Path) -> Result<Vec<u8>, Failure> {
    // It may be a private key, given by mistake.
    let pem = files::read_secret(path)?;
    let (label, key) = pem_rfc7468::decode_vec(pem.as_bytes()).map_err(|error| {
        Failure::usage(format!("{} is no key in PEM form: {error}", path.display()))
    })?;
    let key = Zeroizing::new(key);
    if label != "PUBLIC KEY" {
        return Err(Failure::usage(format!(
            "{} is a {label}, not a PUBLIC KEY: openssl pkey -in KEY -pubout",
            path.display()
        )));
    }
    Ok(key.to_vec())
}

const EXAMPLES: &str = "\
Examples:
  sealwire set -c coordinator:1313 -m manifest.json --policy web.rego
  sealwire set -c coordinator:1313 -m manifest.json --workload-owner-key alice.pem
  sealwire set -c coordinator:1313 -m manifest.json --signature bob.sig --signer bob.pub.pem";
