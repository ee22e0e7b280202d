use attestation::identity::TrustDomain;

use super::ca_certificate::CaCertificate;
use super::error::PkiError;
use super::key::PrivateKey;
use super::mesh_ca::MeshCa;
use super::profile;
use super::validity::Validity;

/// The root CA, which data owners trust for the life of the deployment.
#[derive(Debug)]
pub struct Root {
    certificate: CaCertificate,
    key: PrivateKey,
}

impl Root {
    /// A self-signed root of `trust_domain`; the key may be random or derived from a seed.
    ///
    /// The same arguments give the same certificate but for the signature, which ECDSA randomizes:
    /// what chains to one chains to the other, so a recovered root replaces the one it was.
    pub fn create(
        trust_domain: &TrustDomain,
        key: PrivateKey,
        validity: Validity,
    ) -> Result<Self, PkiError> {
        let signer = key.signer();
        let mut params = profile::ca("Sealwire Root CA", trust_domain, signer, 1, validity)?;
        params.serial_number = Some(profile::serial_of(signer));
        let certificate = params.self_signed(signer).map_err(PkiError::Sign)?;
        Ok(Self {
            certificate: CaCertificate::from_der(certificate.into())?,
            key,
        })
    }

    /// A root made earlier.
    pub fn from_parts(certificate: CaCertificate, key: PrivateKey) -> Result<Self, PkiError> {
        certificate.check_key(&key)?;
        Ok(Self { certificate, key })
    }

    /// A mesh CA with a fresh random key, and the intermediate that ties it to this root.
    pub fn new_mesh_ca(&self, validity: Validity) -> Result<MeshCa, PkiError> {
        self.certificate.check_covers(validity)?;
        MeshCa::create(
            self.certificate.trust_domain(),
            &self.certificate.issuer(&self.key)?,
            validity,
        )
    }

    /// What data owners trust.
    pub fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// The secret, for a caller that keeps it.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }
}
