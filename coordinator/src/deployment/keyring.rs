//! The secrets of a deployment. They live in this process's memory alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use attestation::identity::TrustDomain;
use history::{SigningKeyError, TransitionKey, TransitionSigner};
use seed::{Seed, SeedError};
use thiserror::Error;
use time::OffsetDateTime;

use super::mesh_view::Generation;
use super::objects::PkiRecord;
use crate::pki::{CaCertificate, MeshCa, PkiError, PrivateKey, Root, Validity, ValidityError};

/// The seed, what is derived from it, and the random keys of the mesh CAs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keyring {
    fixed: Arc<Fixed>,
    mesh_cas: BTreeMap<Generation, Arc<MeshCa>>,
}

#[derive(Debug)]
struct Fixed {
    seed: Seed,
    root: Root,
    signer: TransitionSigner,
}

impl Keyring {
    /// The keys of a new deployment, without a mesh CA.
    pub fn create(
        seed: Seed,
        trust_domain: &TrustDomain,
        now: OffsetDateTime,
    ) -> Result<Self, KeyringError> {
        let validity = Validity::of_ca(now, CA_LIFETIME)?;
        let root = Root::create(trust_domain, root_key(&seed)?, validity)?;
        Self::new(seed, root)
    }

    /// The keys of the deployment that has this root. Refuses a seed that is not its.
    pub fn recover(seed: Seed, root: CaCertificate) -> Result<Self, KeyringError> {
        let root = Root::from_parts(root, root_key(&seed)?)?;
        Self::new(seed, root)
    }

    fn new(seed: Seed, root: Root) -> Result<Self, KeyringError> {
        let signer = signer(&seed)?;
        Ok(Self {
            fixed: Arc::new(Fixed { seed, root, signer }),
            mesh_cas: BTreeMap::new(),
        })
    }

    /// The key that the transitions of `seed`'s deployment are signed with.
    pub fn transition_key(seed: &Seed) -> Result<TransitionKey, KeyringError> {
        Ok(signer(seed)?.public_key().clone())
    }

    /// A fresh mesh CA, which nothing refers to yet.
    pub fn new_mesh_ca(&self, now: OffsetDateTime) -> Result<MeshCa, KeyringError> {
        let root = self.root().certificate().validity();
        let validity = Validity::of_ca(now, CA_LIFETIME)?;
        let validity = Validity::between(
            validity.not_before().max(root.not_before()),
            validity.not_after().min(root.not_after()),
        )?;
        Ok(self.root().new_mesh_ca(validity)?)
    }

    /// Adds the mesh CA of a generation.
    pub fn add(&mut self, generation: Generation, mesh_ca: Arc<MeshCa>) {
        self.mesh_cas.insert(generation, mesh_ca);
    }

    /// Adds the mesh CA of a generation whose key another Coordinator gave. Refuses a key that is
    /// not the certificates'.
    pub fn add_key(
        &mut self,
        generation: Generation,
        record: &PkiRecord,
        key_pem: &str,
    ) -> Result<(), KeyringError> {
        let key = PrivateKey::from_pem(key_pem).map_err(PkiError::from)?;
        let mesh_ca = MeshCa::from_parts(record.mesh_ca.clone(), record.intermediate.clone(), key)?;
        self.add(generation, Arc::new(mesh_ca));
        Ok(())
    }

    /// Forgets the mesh CAs of all other generations.
    pub fn retain(&mut self, generations: &[Generation]) {
        self.mesh_cas
            .retain(|generation, _| generations.contains(generation));
    }

    /// The seed.
    pub fn seed(&self) -> &Seed {
        &self.fixed.seed
    }

    /// The root CA.
    pub fn root(&self) -> &Root {
        &self.fixed.root
    }

    /// Signs transitions.
    pub fn signer(&self) -> &TransitionSigner {
        &self.fixed.signer
    }

    /// The mesh CA of a generation, if this process has its key.
    pub fn mesh_ca(&self, generation: Generation) -> Option<&Arc<MeshCa>> {
        self.mesh_cas.get(&generation)
    }

    /// Every mesh CA whose key this process has.
    pub fn mesh_cas(&self) -> impl Iterator<Item = (Generation, &Arc<MeshCa>)> {
        self.mesh_cas
            .iter()
            .map(|(generation, ca)| (*generation, ca))
    }
}

fn root_key(seed: &Seed) -> Result<PrivateKey, KeyringError> {
    let pem = seed.root_ca_key()?.pkcs8_pem();
    Ok(PrivateKey::from_pem(&pem).map_err(PkiError::from)?)
}

fn signer(seed: &Seed) -> Result<TransitionSigner, KeyringError> {
    Ok(TransitionSigner::from_pkcs8(
        seed.transition_key()?.pkcs8_der(),
    )?)
}

/// As long as a deployment lives without a new root; mesh CAs end with it.
const CA_LIFETIME: std::time::Duration = std::time::Duration::from_hours(10 * 365 * 24);

/// Why there are no keys.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// Nothing could be derived from the seed.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// A certificate could not be made, or is not of this seed.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The clock is outside of what certificates can say.
    #[error(transparent)]
    Validity(#[from] ValidityError),
    /// The derived key can't sign.
    #[error(transparent)]
    Signer(#[from] SigningKeyError),
}
