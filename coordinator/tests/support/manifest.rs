//! Manifests, as an operator writes them.

use attestation::Digest;
use serde_json::{Value, json};

use super::owners::{share_owners, workload_owners};
use super::platform::Platform;

/// The name of the Coordinator's policy.
pub(crate) const COORDINATOR: &str = "coordinator";

/// The document that a policy is the digest of.
pub(crate) fn policy_document(name: &str) -> Vec<u8> {
    format!("package agent_policy # {name}\n").into_bytes()
}

pub(crate) fn policy_hash(name: &str) -> Digest {
    Digest::of(&policy_document(name))
}

pub(crate) fn spiffe_id(name: &str) -> String {
    format!("spiffe://mesh.local/ns/default/sa/{name}")
}

/// A manifest to be changed at will. Without more it lists a Coordinator, one owner, and three owners
/// of shares of whom two recover.
#[derive(Clone, Debug)]
pub(crate) struct ManifestBuilder(Value);

impl ManifestBuilder {
    pub(crate) fn new(platform: &Platform) -> Self {
        let shares: Vec<_> = share_owners(3)
            .iter()
            .map(|it| hex::encode(&it.public))
            .collect();
        let simulated = json!([{
            "TrustedMeasurement": hex::encode(super::platform::MEASUREMENT),
            "PlatformKeys": [platform.key_digest().to_string()],
        }]);
        Self(json!({
            "TrustDomain": "mesh.local",
            "Policies": {},
            "ReferenceValues": { "simulated": simulated },
            "WorkloadOwnerKeyDigests": [workload_owners(1)[0].digest().to_string()],
            "SeedshareOwnerPubKeys": shares,
            "SeedshareQuorum": 2,
        }))
        .policy(COORDINATOR, json!({ "Role": "coordinator" }))
    }

    /// With a workload that is called by its name, and has its name alone.
    pub(crate) fn workload(self, name: &str) -> Self {
        self.policy(name, json!({}))
    }

    /// With a policy of this name, of which `fields` say more.
    pub(crate) fn policy(mut self, name: &str, fields: Value) -> Self {
        let mut policy = json!({ "SANs": [name] });
        merge(&mut policy, fields);
        self.0["Policies"][policy_hash(name).to_string()] = policy;
        self
    }

    pub(crate) fn without_policy(mut self, name: &str) -> Self {
        let policies = self.0["Policies"].as_object_mut().unwrap();
        policies.remove(&policy_hash(name).to_string()).unwrap();
        self
    }

    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.0[field] = value;
        self
    }

    pub(crate) fn rotation(self, mode: &str, seconds: u64) -> Self {
        self.with(
            "Rotation",
            json!({ "Mode": mode, "DeadlineSeconds": seconds }),
        )
    }

    /// With so many workload owners, of whom `quorum` have to agree.
    pub(crate) fn owners(self, count: usize, quorum: usize) -> Self {
        let digests: Vec<_> = workload_owners(count)
            .iter()
            .map(|it| it.digest().to_string())
            .collect();
        self.with("WorkloadOwnerKeyDigests", json!(digests))
            .with("UpdateQuorum", json!(quorum))
    }

    /// The manifest as JSON.
    pub(crate) fn json(&self) -> &Value {
        &self.0
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&self.0).unwrap()
    }

    pub(crate) fn parse(&self) -> manifest::Manifest {
        manifest::Manifest::parse(&self.bytes()).unwrap()
    }

    pub(crate) fn hash(&self) -> Digest {
        Digest::of(&self.bytes())
    }
}

fn merge(into: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else {
        panic!("a policy's fields are an object");
    };
    for (name, value) in fields {
        into[name] = value;
    }
}
