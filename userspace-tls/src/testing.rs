//! Certificates for tests, made when they are needed.

use attestation::identity::SpiffeId;
use attestation::oid;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SanType,
};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use crate::assurance::Assurance;
use crate::config::{MeshTls, provider};
use crate::credentials::{Credentials, Validity};
use crate::trust_anchors::TrustAnchors;

/// A mesh CA: P-384, as the Coordinator's.
pub(crate) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(ca_params(name), key).unwrap(),
        }
    }

    /// A CA whose certificate this one signs.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        Self {
            issuer: CertifiedIssuer::signed_by(ca_params(name), key, &self.issuer).unwrap(),
        }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn issue(&self, leaf: &Leaf) -> Issued {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.not_before = OffsetDateTime::now_utc() + leaf.from;
        params.not_after = OffsetDateTime::now_utc() + leaf.until;
        params.extended_key_usages = leaf.usages.clone();
        params.subject_alt_names = leaf
            .uris
            .iter()
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
            .chain([SanType::DnsName("leaf.example".try_into().unwrap())])
            .collect();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// What a workload with this certificate uses, itself trusting this CA.
    pub(crate) fn mesh_tls(&self, leaf: &Leaf) -> MeshTls {
        self.mesh_tls_of(&self.issue(leaf))
    }

    /// The same with a certificate of any CA, unchecked.
    pub(crate) fn mesh_tls_of(&self, issued: &Issued) -> MeshTls {
        unchecked(issued, &[self], Assurance::Production)
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// What a workload with this certificate uses, itself trusting these CAs. Checks nothing.
pub(crate) fn unchecked(issued: &Issued, trusted: &[&Ca], assurance: Assurance) -> MeshTls {
    let provider = provider();
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    for ca in trusted {
        roots.add(ca.issuer.der().clone()).unwrap();
    }
    let now = OffsetDateTime::now_utc().into();
    MeshTls::new(Credentials {
        certified_key: CertifiedKey::from_der(chain, key, &provider).unwrap(),
        trust_anchors: TrustAnchors::new(
            roots,
            assurance,
            provider.signature_verification_algorithms,
        ),
        identity: spiffe_id("unchecked"),
        validity: Validity {
            not_before: now,
            not_after: now,
        },
    })
    .unwrap()
}

/// What a leaf certificate says.
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    pub(crate) fn workload(name: &str) -> Self {
        Self {
            uris: vec![spiffe_id(name).to_string()],
            from: -Duration::HOUR,
            until: Duration::HOUR,
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        }
    }

    /// The same, resting on a simulated TEE.
    pub(crate) fn simulated(name: &str) -> Self {
        let purpose = ExtendedKeyUsagePurpose::Other(oid::SIMULATED.arcs().to_vec());
        Self {
            usages: vec![purpose],
            ..Self::workload(name)
        }
    }
}

/// A leaf certificate and its key, PEM.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
}

pub(crate) fn spiffe_id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://mesh.example/ns/default/sa/{name}")).unwrap()
}
