use attestation::identity::{SpiffeId, TrustDomain};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::SubjectPublicKeyInfoDer;

use super::ca_certificate::CaCertificate;
use super::claims::CertificateClaims;
use super::error::PkiError;
use super::key::{Curve, PrivateKey};
use super::names::WorkloadNames;
use super::profile;
use super::validity::Validity;
use super::workload::WorkloadCertificate;

/// The CA of one generation of the mesh: one key and subject, two certificates.
///
/// Made by [`Root::new_mesh_ca`](super::Root::new_mesh_ca).
#[derive(Debug)]
pub struct MeshCa {
    certificate: CaCertificate,
    intermediate: CaCertificate,
    key: PrivateKey,
}

impl MeshCa {
    /// A mesh CA made earlier. Refuses parts that do not belong together.
    pub fn from_parts(
        certificate: CaCertificate,
        intermediate: CaCertificate,
        key: PrivateKey,
    ) -> Result<Self, PkiError> {
        certificate.check_key(&key)?;
        certificate.check_twin(&intermediate)?;
        Ok(Self {
            certificate,
            intermediate,
            key,
        })
    }

    /// Refuses where the intermediate was not signed by `root`: data owners would be led nowhere.
    pub fn check_chains_to(&self, root: &CaCertificate) -> Result<(), PkiError> {
        self.intermediate.check_signed_by(root)
    }

    /// Certifies that the owner of `public_key` (P-256) goes by `names`.
    ///
    /// The caller has made sure that it does.
    pub fn issue(
        &self,
        names: &WorkloadNames,
        validity: Validity,
        public_key: &SubjectPublicKeyInfoDer<'_>,
    ) -> Result<WorkloadCertificate, PkiError> {
        self.certify(names, validity, public_key, None)
    }

    /// The same, saying by `claims` what the owner proved to be.
    ///
    /// Where its TEE is simulated, the certificate has the key purpose
    /// [`SIMULATED`](attestation::oid::SIMULATED) alone.
    pub fn issue_attested(
        &self,
        names: &WorkloadNames,
        validity: Validity,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        claims: &CertificateClaims<'_>,
    ) -> Result<WorkloadCertificate, PkiError> {
        self.certify(names, validity, public_key, Some(claims))
    }

    /// What mesh peers trust: self-signed.
    pub fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// The link between workloads and the root.
    pub fn intermediate(&self) -> &CaCertificate {
        &self.intermediate
    }

    /// The secret, for a caller that keeps it.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    pub(super) fn create(
        trust_domain: &TrustDomain,
        root: &Issuer<'_, &KeyPair>,
        validity: Validity,
    ) -> Result<Self, PkiError> {
        let key = PrivateKey::generate(Curve::P384)?;
        let signer = key.signer();
        let mut params = profile::ca("Sealwire Mesh CA", trust_domain, signer, 0, validity)?;
        let certificate = params.self_signed(signer).map_err(PkiError::Sign)?;
        params.serial_number = Some(profile::random_serial()?);
        let intermediate = params.signed_by(signer, root).map_err(PkiError::Sign)?;
        Ok(Self {
            certificate: CaCertificate::from_der(certificate.into())?,
            intermediate: CaCertificate::from_der(intermediate.into())?,
            key,
        })
    }

    fn certify(
        &self,
        names: &WorkloadNames,
        validity: Validity,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        claims: Option<&CertificateClaims<'_>>,
    ) -> Result<WorkloadCertificate, PkiError> {
        self.check_identity(&names.spiffe_id)?;
        self.certificate.check_covers(validity)?;
        self.intermediate.check_covers(validity)?;
        let public_key = p256_point(public_key)?;
        let leaf = profile::workload(names, &public_key, validity, claims)?
            .signed_by(&public_key, &self.certificate.issuer(&self.key)?)
            .map_err(PkiError::Sign)?;
        Ok(WorkloadCertificate::new(
            names.spiffe_id.clone(),
            validity,
            [leaf.into(), self.intermediate.der().clone()],
        ))
    }

    fn check_identity(&self, spiffe_id: &SpiffeId) -> Result<(), PkiError> {
        let spiffe_id = spiffe_id.clone();
        let trust_domain = self.certificate.trust_domain();
        if spiffe_id.trust_domain() != trust_domain {
            return Err(PkiError::ForeignTrustDomain {
                spiffe_id,
                trust_domain: trust_domain.clone(),
            });
        }
        if spiffe_id.path().is_empty() {
            return Err(PkiError::NoPath { spiffe_id });
        }
        Ok(())
    }
}

/// Refuses other algorithms and points that are not on the curve.
fn p256_point(
    public_key: &SubjectPublicKeyInfoDer<'_>,
) -> Result<rcgen::SubjectPublicKeyInfo, PkiError> {
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key)
        .map_err(|_| PkiError::WorkloadPublicKey)?;
    rcgen::SubjectPublicKeyInfo::from_der(public_key).map_err(|_| PkiError::WorkloadPublicKey)
}
