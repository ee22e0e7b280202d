//! A history that holds: every signature, every link, every owner's consent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, anyhow, ensure};
use api::v1;
use attestation::Digest;
use coordinator::deployment::PkiRecord;
use history::{
    Authorisation, Chain, Kind, SignedTransition, Transition, TransitionKey, authorise,
    update_statement,
};
use manifest::Manifest;
use seed::SharesDocument;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a Coordinator showed, verified.
#[derive(Debug)]
pub(super) struct VerifiedDeployment {
    pub(super) chain: Chain,
    /// Every manifest that was ever in force, the oldest first.
    pub(super) manifests: Vec<Manifest>,
    pub(super) policies: BTreeMap<Digest, Vec<u8>>,
    pub(super) root_ca: String,
    pub(super) mesh_ca: String,
    /// Who signed the first manifest, as the Coordinator demanded; empty where it was taken on
    /// trust.
    pub(super) first_signers: Vec<Digest>,
}

impl VerifiedDeployment {
    pub(super) fn verify(
        status: &v1::Status,
        entries: Vec<v1::HistoryEntry>,
    ) -> anyhow::Result<Self> {
        let key = TransitionKey::from_spki(&status.transition_key)?;
        let transitions = entries
            .iter()
            .map(|entry| SignedTransition::decode(&entry.transition))
            .collect::<Result<Vec<_>, _>>()
            .context("the Coordinator's history can't be read")?;
        let chain = Chain::verify(transitions, &key).context("the Coordinator's history")?;
        let head = chain.head();
        ensure!(
            status
                .head
                .as_ref()
                .is_some_and(|it| it.transition == head.hash.0),
            "the Coordinator's history ends with {head}, which it says is not the latest; it may be \
             changing this very moment: try again"
        );
        let objects = Objects::new(entries);
        let mut manifests: Vec<Manifest> = Vec::new();
        let mut generations = Generations::default();
        let mut last: Option<&Transition> = None;
        for signed in &chain {
            let transition = &signed.transition;
            let seq = transition.seq;
            generations
                .add(transition.kind, &objects.pki(transition)?)
                .with_context(|| format!("transition {seq}"))?;
            if transition.kind == Kind::Manifest {
                let manifest = objects.manifest(transition)?;
                if let Some(before) = manifests.last() {
                    check_consent(before, &manifest, transition).with_context(|| {
                        format!("transition {seq}: the owners did not consent to its manifest")
                    })?;
                }
                check_shares(&objects.shares(transition)?, &manifest)
                    .with_context(|| format!("transition {seq}"))?;
                manifests.push(manifest);
            } else {
                ensure!(
                    last.is_some_and(|last| last.seed_shares == transition.seed_shares),
                    "transition {seq} shares out the seed anew, which only a manifest can demand"
                );
            }
            last = Some(transition);
        }
        let record = generations
            .newest
            .context("the history has no PKI record")?;
        let (root_ca, mesh_ca) = (record.root.pem(), record.mesh_ca.pem());
        ensure!(
            status.root_ca == root_ca && status.mesh_cas.first() == Some(&mesh_ca),
            "the certificates that the Coordinator shows are not those of its history"
        );
        let policies = manifests
            .iter()
            .flat_map(|manifest| manifest.policies().keys())
            .filter_map(|digest| Some((*digest, objects.0.get(digest)?.clone())))
            .collect();
        Ok(Self {
            first_signers: first_signers(status, &chain),
            chain,
            manifests,
            policies,
            root_ca,
            mesh_ca,
        })
    }

    /// The manifest in force.
    pub(super) fn active(&self) -> &Manifest {
        // `verify` made sure that history begins with a manifest.
        &self.manifests[self.manifests.len() - 1]
    }

    pub(super) fn transitions_json(&self) -> String {
        let transitions: Vec<_> = self
            .chain
            .iter()
            .map(|signed| {
                let it = &signed.transition;
                json!({
                    "seq": it.seq,
                    "hash": it.hash().to_string(),
                    "previous": it.previous.to_string(),
                    "kind": it.kind.as_str(),
                    "manifest": it.manifest.to_string(),
                    "pki": it.pki.to_string(),
                    "seed_shares": it.seed_shares.to_string(),
                    "time": it.time,
                    "authorised_by": self.signers(it),
                    "signed": hex::encode(signed.encode()),
                })
            })
            .collect();
        format!("{:#}\n", serde_json::Value::Array(transitions))
    }

    /// Whose consent to a transition was verified.
    fn signers(&self, transition: &Transition) -> Vec<String> {
        if transition.seq == 1 {
            return self.first_signers.iter().map(ToString::to_string).collect();
        }
        let keys = transition
            .authorisations
            .iter()
            .map(Authorisation::key_digest);
        keys.map(|key| key.to_string()).collect()
    }
}

/// What transitions refer to, by digest.
struct Objects(HashMap<Digest, Vec<u8>>);

impl Objects {
    fn new(entries: Vec<v1::HistoryEntry>) -> Self {
        let objects = entries.into_iter().flat_map(|entry| entry.objects);
        Self(objects.map(|it| (Digest::of(&it), it)).collect())
    }

    fn manifest(&self, transition: &Transition) -> anyhow::Result<Manifest> {
        let bytes = self.get(transition, "manifest", &transition.manifest)?;
        Manifest::parse(bytes)
            .map_err(|errors| anyhow!("transition {}: its manifest:\n{errors}", transition.seq))
    }

    /// The certificates, which belong together: the root signed the intermediate, which has key and
    /// name of the mesh CA.
    fn pki(&self, transition: &Transition) -> anyhow::Result<PkiRecord> {
        let bytes = self.get(transition, "PKI record", &transition.pki)?;
        PkiRecord::decode(bytes)
            .with_context(|| format!("transition {}: its PKI record", transition.seq))
    }

    fn shares(&self, transition: &Transition) -> anyhow::Result<SharesDocument> {
        let bytes = self.get(transition, "seed shares", &transition.seed_shares)?;
        SharesDocument::parse(bytes)
            .with_context(|| format!("transition {}: its seed shares", transition.seq))
    }

    fn get(&self, transition: &Transition, what: &str, digest: &Digest) -> anyhow::Result<&[u8]> {
        let object = self.0.get(digest).with_context(|| {
            let seq = transition.seq;
            format!("transition {seq}: its {what} ({digest}) is missing")
        });
        object.map(Vec::as_slice)
    }
}

/// The certificates that each transition stands for, up to the latest.
#[derive(Default)]
struct Generations {
    newest: Option<PkiRecord>,
    mesh_ca_keys: BTreeSet<Vec<u8>>,
}

impl Generations {
    /// A manifest and a recovery begin with a mesh CA of their own, or else who was trusted before
    /// stays so; nothing else changes a certificate.
    fn add(&mut self, kind: Kind, record: &PkiRecord) -> anyhow::Result<()> {
        if let Some(before) = &self.newest {
            ensure!(
                record.root == before.root,
                "the root CA changes, which stays for the life of a deployment"
            );
        }
        match kind {
            Kind::Manifest | Kind::Recovery => {
                let (_, mesh_ca) = X509Certificate::from_der(record.mesh_ca.der())?;
                ensure!(
                    self.mesh_ca_keys.insert(mesh_ca.public_key().raw.to_vec()),
                    "the mesh CA has a key that an earlier one has: certificates of an earlier \
                     manifest would hold"
                );
            }
            Kind::Issue | Kind::Withdraw => ensure!(
                self.newest
                    .as_ref()
                    .is_some_and(|it| it.mesh_ca == record.mesh_ca),
                "the mesh CA changes without a new manifest"
            ),
        }
        self.newest = Some(record.clone());
        Ok(())
    }
}

fn check_consent(
    before: &Manifest,
    manifest: &Manifest,
    transition: &Transition,
) -> anyhow::Result<()> {
    let statement = update_statement(&manifest.hash(), &transition.previous);
    authorise(
        before.workload_owners(),
        before.update_quorum(),
        &statement,
        &transition.authorisations,
    )?;
    Ok(())
}

fn check_shares(shares: &SharesDocument, manifest: &Manifest) -> anyhow::Result<()> {
    ensure!(
        shares.owners().eq(manifest.seedshare_owners())
            && usize::from(shares.threshold()) == manifest.seedshare_quorum(),
        "the seed is shared among others than the manifest's owners, or takes another quorum"
    );
    Ok(())
}

/// A Coordinator without owner keys takes the first manifest from anybody, whatever its signatures.
fn first_signers(status: &v1::Status, chain: &Chain) -> Vec<Digest> {
    let first = chain.iter().next().map(|signed| &signed.transition);
    let Some(first) = first.filter(|_| !status.trust_on_first_use) else {
        return vec![];
    };
    let statement = update_statement(&first.manifest, &first.previous);
    let keys: Vec<_> = first
        .authorisations
        .iter()
        .map(Authorisation::key_digest)
        .collect();
    match authorise(&keys, keys.len(), &statement, &first.authorisations) {
        Ok(()) => keys,
        Err(_) => vec![],
    }
}

#[cfg(test)]
mod tests;
