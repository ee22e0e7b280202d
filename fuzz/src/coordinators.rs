//! Coordinators without a network, and who calls them.

use std::sync::Arc;

use attestation::{AttestationResult, Digest, ReportData, SimulatedTee, Verifier};
use attester::simulated::{generate_platform_key, platform_key_digest};
use attester::{EvidenceSource, Simulated, SimulatedOptions};
use coordinator::audit::Audit;
use coordinator::change::Update;
use coordinator::core::{Coordinator, Settings};
use coordinator::metrics::Metrics;
use coordinator::store::{RedbStore, Store};
use manifest::Manifest;
use rustls_pki_types::UnixTime;
use serde_json::json;

use crate::rsa_owner::RsaOwner;
use crate::sample_manifests;

/// A store whose file has no name any more: it is gone with the process.
pub async fn store() -> Arc<dyn Store> {
    let directory = tempfile::tempdir().expect("a directory");
    let store = RedbStore::open(directory.path().join("history.redb")).await;
    Arc::new(store.expect("a store"))
}

/// A Coordinator that takes the simulated TEE for one.
pub async fn start(store: Arc<dyn Store>, first_set_owners: Vec<Digest>) -> Arc<Coordinator> {
    let settings = Settings {
        first_set_quorum: first_set_owners.len(),
        first_set_owners,
        simulated: SimulatedTee::Allowed,
    };
    let audit = Audit::open(None).expect("no file");
    let coordinator = Coordinator::start(store, settings, audit, Metrics::default()).await;
    coordinator.expect("a Coordinator")
}

/// Sets the first manifest.
pub async fn set_first(coordinator: &Coordinator, manifest: &Manifest) {
    let update = Update {
        manifest: manifest.bytes().to_vec(),
        policies: vec![],
        authorisations: vec![],
        previous: None,
    };
    coordinator
        .set_manifest(update)
        .await
        .expect("a first manifest");
}

/// A machine with the simulated TEE.
pub struct Machine {
    key_pem: String,
}

impl Machine {
    /// A machine with a new platform key.
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        let key_pem = generate_platform_key().expect("a key");
        Self {
            key_pem: key_pem.to_string(),
        }
    }

    /// A manifest that lists this machine, `workload_owners`, and `seedshare_owners`, all of whom it
    /// takes to recover.
    pub fn manifest(&self, workload_owners: &[Digest], seedshare_owners: &[RsaOwner]) -> Manifest {
        let platform_key = platform_key_digest(&self.key_pem).expect("a key");
        let mut manifest = sample_manifests::simulated(platform_key);
        let owners: Vec<_> = workload_owners.iter().map(Digest::to_string).collect();
        manifest["WorkloadOwnerKeyDigests"] = json!(owners);
        let owners: Vec<_> = seedshare_owners
            .iter()
            .map(|it| hex::encode(&it.public))
            .collect();
        manifest["SeedshareQuorum"] = json!(owners.len());
        manifest["SeedshareOwnerPubKeys"] = json!(owners);
        let parsed = Manifest::parse(manifest.to_string().as_bytes());
        parsed.unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// What a verifier makes of a guest on this machine that was started with `policy`.
    pub fn appraised(&self, manifest: &Manifest, policy: Digest) -> AttestationResult {
        let report_data = ReportData([4; 64]);
        let source = Simulated::new(SimulatedOptions {
            key_pem: self.key_pem.clone().into(),
            measurement: sample_manifests::MEASUREMENT,
            host_data: policy,
            platform: [3; 16],
        });
        let evidence = source
            .and_then(|it| it.evidence(&report_data))
            .expect("evidence");
        let values = manifest.reference_values();
        Verifier::new(SimulatedTee::Allowed)
            .appraise(&evidence, &report_data, values, UnixTime::now())
            .unwrap_or_else(|refusals| panic!("{refusals}"))
    }
}
