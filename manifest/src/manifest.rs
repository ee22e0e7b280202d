use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use attestation::identity::TrustDomain;
use attestation::{Digest, ReferenceValues};

use crate::error::{Collector, ManifestErrors};
use crate::owners::{self, Owners};
use crate::path::Path;
use crate::policies::{self, Policies, Policy};
use crate::read::{Cursor, Json, Object};
use crate::reference_values::reference_values;
use crate::rotation::{self, Rotation};

/// What a deployment trusts. Made only by parsing, so an invalid one cannot be held. Cloning counts
/// a reference.
#[derive(Clone)]
pub struct Manifest(Arc<Contents>);

struct Contents {
    bytes: Vec<u8>,
    hash: Digest,
    trust_domain: TrustDomain,
    policies: Policies,
    reference_values: ReferenceValues,
    workload_owners: Owners<Digest>,
    seedshare_owners: Owners<Vec<u8>>,
    rotation: Rotation,
    certificate_lifetime: Duration,
}

impl Manifest {
    /// The longest manifest that is looked at: as long as an object that a store takes.
    pub const MAX_BYTES: usize = 1024 * 1024;

    /// Reads JSON, strictly: unknown fields, fields given twice and names that lead nowhere are
    /// errors. Gives every error at once, but for those that keep the text from being JSON at all.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestErrors> {
        let errors = Collector::default();
        let contents = json(bytes, &errors).and_then(|json| contents(bytes, &json, &errors));
        match contents {
            Some(contents) if errors.count() == 0 => Ok(Self(Arc::new(contents))),
            _ => Err(errors.into_errors()),
        }
    }

    /// The exact bytes that were parsed.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// SHA-256 of the exact bytes.
    pub fn hash(&self) -> Digest {
        self.0.hash
    }

    /// The trust domain of every identity.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// Every policy by its hash: what `HOST_DATA` of SEV-SNP or MRCONFIGID of TDX must say.
    pub fn policies(&self) -> &BTreeMap<Digest, Policy> {
        &self.0.policies.all
    }

    /// The policy with that hash.
    pub fn policy(&self, hash: &Digest) -> Option<&Policy> {
        self.0.policies.all.get(hash)
    }

    /// The one policy with the Coordinator's role, and its hash.
    pub fn coordinator(&self) -> (&Digest, &Policy) {
        let (hash, policy) = &self.0.policies.coordinator;
        (hash, policy)
    }

    /// What evidence is compared with. Either TEEs of hardware or the simulated one, never none.
    pub fn reference_values(&self) -> &ReferenceValues {
        &self.0.reference_values
    }

    /// Who may set the next manifest: SHA-256 of the `SubjectPublicKeyInfo` of each owner's key.
    pub fn workload_owners(&self) -> &[Digest] {
        &self.0.workload_owners.keys
    }

    /// How many workload owners must agree to the next manifest; 0 if there are none, and then
    /// there is no next manifest, ever.
    pub fn update_quorum(&self) -> usize {
        self.0.workload_owners.quorum
    }

    /// Who gets a share of the seed: RSA public keys of 2048 to 8192 bits, PKCS#1 DER.
    pub fn seedshare_owners(&self) -> &[Vec<u8>] {
        &self.0.seedshare_owners.keys
    }

    /// How many shares recover the seed; 0 if there are none, and then only a live Coordinator can.
    pub fn seedshare_quorum(&self) -> usize {
        self.0.seedshare_owners.quorum
    }

    /// How the next manifest takes over.
    pub fn rotation(&self) -> Rotation {
        self.0.rotation
    }

    /// How long a mesh certificate is valid: 10 seconds to 30 days.
    pub fn certificate_lifetime(&self) -> Duration {
        self.0.certificate_lifetime
    }
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for Manifest {}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manifest({})", self.0.hash)
    }
}

pub(crate) fn json(bytes: &[u8], errors: &Collector) -> Option<Json> {
    let root = Path::root();
    if bytes.len() > Manifest::MAX_BYTES {
        let want = format_args!("at most {} bytes", Manifest::MAX_BYTES);
        errors.mismatch(&root, format_args!("{} bytes", bytes.len()), want);
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let offset = error.valid_up_to();
            let byte = bytes.get(offset).copied().unwrap_or_default();
            let got = format_args!("0x{byte:02x} at byte offset {offset}");
            errors.mismatch(&root, got, "UTF-8");
            return None;
        }
    };
    Json::parse(text)
        .map_err(|error| errors.mismatch(&root, error, "JSON"))
        .ok()
}

fn contents(bytes: &[u8], json: &Json, errors: &Collector) -> Option<Contents> {
    let root = Cursor::new(json, Path::root(), errors).object(&[
        "TrustDomain",
        "Policies",
        "ReferenceValues",
        "WorkloadOwnerKeyDigests",
        "UpdateQuorum",
        "SeedshareOwnerPubKeys",
        "SeedshareQuorum",
        "Rotation",
        "CertificateLifetime",
    ])?;
    let trust_domain = trust_domain(&root);
    let policies = policies::policies(&root, trust_domain.as_ref(), errors);
    let reference_values = reference_values(&root, errors);
    let workload_owners = owners::workload_owners(&root, errors);
    let seedshare_owners = owners::seedshare_owners(&root, errors);
    let rotation = rotation::rotation(&root);
    let certificate_lifetime = rotation::certificate_lifetime(&root);
    Some(Contents {
        bytes: bytes.to_vec(),
        hash: Digest::of(bytes),
        trust_domain: trust_domain?,
        policies: policies?,
        reference_values,
        workload_owners,
        seedshare_owners,
        rotation,
        certificate_lifetime,
    })
}

fn trust_domain(root: &Object<'_>) -> Option<TrustDomain> {
    let Some(cursor) = root.optional("TrustDomain") else {
        return TrustDomain::parse(DEFAULT_TRUST_DOMAIN).ok();
    };
    match TrustDomain::parse(cursor.string()?) {
        Ok(trust_domain) => Some(trust_domain),
        Err(error) => {
            cursor.reject(format_args!("a trust domain: {error}"));
            None
        }
    }
}

/// Contrast's manifests name none.
const DEFAULT_TRUST_DOMAIN: &str = "mesh.local";
