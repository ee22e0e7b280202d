//! A history that holds: every signature, every link, every owner's consent.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, anyhow, ensure};
use api::v1;
use attestation::Digest;
use coordinator::deployment::PkiRecord;
use history::{Chain, Kind, SignedTransition, TransitionKey, authorise, update_statement};
use manifest::Manifest;
use serde_json::json;

/// What a Coordinator showed, verified.
pub(super) struct VerifiedDeployment {
    pub(super) chain: Chain,
    /// Every manifest that was ever in force, the oldest first.
    pub(super) manifests: Vec<Manifest>,
    pub(super) policies: BTreeMap<Digest, Vec<u8>>,
    pub(super) root_ca: String,
    pub(super) mesh_ca: String,
    /// Whether owners had signed the first manifest.
    pub(super) first_was_authorised: bool,
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
        let objects: HashMap<Digest, Vec<u8>> = entries
            .into_iter()
            .flat_map(|entry| entry.objects)
            .map(|object| (Digest::of(&object), object))
            .collect();
        let object = |seq: u64, what: &str, digest: &Digest| {
            objects
                .get(digest)
                .with_context(|| format!("transition {seq}: its {what} ({digest}) is missing"))
        };

        let mut manifests: Vec<Manifest> = Vec::new();
        let mut record: Option<PkiRecord> = None;
        for signed in &chain {
            let transition = &signed.transition;
            let seq = transition.seq;
            let next = PkiRecord::decode(object(seq, "PKI record", &transition.pki)?)
                .with_context(|| format!("transition {seq}: its PKI record"))?;
            if let Some(before) = &record {
                ensure!(
                    next.root == before.root,
                    "transition {seq} changes the root CA, which stays for the life of a deployment"
                );
            }
            record = Some(next);
            if transition.kind != Kind::Manifest {
                continue;
            }
            let manifest = Manifest::parse(object(seq, "manifest", &transition.manifest)?)
                .map_err(|errors| anyhow!("transition {seq}: its manifest:\n{errors}"))?;
            if let Some(before) = manifests.last() {
                let statement = update_statement(&manifest.hash(), &transition.previous);
                authorise(
                    before.workload_owners(),
                    before.update_quorum(),
                    &statement,
                    &transition.authorisations,
                )
                .with_context(|| {
                    format!("transition {seq}: the owners did not consent to its manifest")
                })?;
            }
            manifests.push(manifest);
        }
        let record = record.context("the history has no PKI record")?;
        let (root_ca, mesh_ca) = (record.root.pem(), record.mesh_ca.pem());
        ensure!(
            status.root_ca == root_ca && status.mesh_cas.first() == Some(&mesh_ca),
            "the certificates that the Coordinator shows are not those of its history"
        );
        let policies = manifests
            .iter()
            .flat_map(|manifest| manifest.policies().keys())
            .filter_map(|digest| Some((*digest, objects.get(digest)?.clone())))
            .collect();
        let first = chain.iter().next();
        Ok(Self {
            first_was_authorised: first.is_some_and(|it| !it.transition.authorisations.is_empty()),
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
                    "authorised_by": it
                        .authorisations
                        .iter()
                        .map(|it| it.key_digest().to_string())
                        .collect::<Vec<_>>(),
                    "signed": hex::encode(signed.encode()),
                })
            })
            .collect();
        format!("{:#}\n", serde_json::Value::Array(transitions))
    }
}
