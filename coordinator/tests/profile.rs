//! What the certificates say, field by field, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

mod claims;

use attestation::identity::{DnsName, SpiffeId, TrustDomain};
use attestation::oid::{self, Oid};
use attestation::{Claims, Tee};
use coordinator::pki::{
    CaCertificate, CertificateClaims, Curve, MeshCa, PkiError, PrivateKey, Root, Validity,
    WorkloadNames,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use time::OffsetDateTime;
use time::macros::datetime;
use x509_parser::asn1_rs::FromDer;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384};
use x509_parser::prelude::{X509Certificate, X509Extension};

const NOON: OffsetDateTime = datetime!(2026-11-21 12:00:00 UTC);

#[test]
fn a_certificate_has_exactly_the_names_asked_for_spiffe_id_first() {
    let names = WorkloadNames {
        spiffe_id: id("spiffe://mesh.local/ns/default/sa/web"),
        dns: vec![dns("web"), dns("web.default.svc")],
        ip: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
    };
    let leaf = issue(&names);
    let v4 = [10, 0, 0, 7];
    let v6 = "fd00::7".parse::<IpAddr>().unwrap();
    let IpAddr::V6(v6) = v6 else { panic!("{v6}") };
    assert_eq!(
        x509(&leaf)
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names,
        [
            GeneralName::URI("spiffe://mesh.local/ns/default/sa/web"),
            GeneralName::DNSName("web"),
            GeneralName::DNSName("web.default.svc"),
            GeneralName::IPAddress(&v4),
            GeneralName::IPAddress(&v6.octets()),
        ]
    );
}

#[test]
fn a_workload_is_client_and_server_and_no_ca() {
    let leaf = issue(&web());
    let leaf = x509(&leaf);

    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    let digital_signature = 1;
    assert!(usage.critical);
    assert_eq!(usage.value.flags, digital_signature);
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(extended.other.is_empty());
    assert_eq!(curve(&leaf), OID_EC_P256);
}

#[test]
fn a_workload_of_hardware_carries_its_claims_and_is_client_and_server_all_the_same() {
    for tee in [Tee::SevSnp, Tee::Tdx] {
        let evidence = claims::evidence(tee);
        let leaf = issue_attested(&claims::claims(&evidence));
        let leaf = x509(&leaf);
        let Claims {
            measurement,
            host_data,
            platform,
            ..
        } = &evidence;
        assert_eq!(claim::<&str>(&leaf, oid::TEE), tee.as_str());
        assert_eq!(claim::<&[u8]>(&leaf, oid::MEASUREMENT), measurement);
        assert_eq!(claim::<&[u8]>(&leaf, oid::HOST_DATA), host_data.0);
        assert_eq!(claim::<&[u8]>(&leaf, oid::PLATFORM), platform);
        assert_eq!(claim::<&[u8]>(&leaf, oid::MANIFEST), [0x55; 32]);
        assert_eq!(claim::<u64>(&leaf, oid::TRANSITION), 300);
        let extended = leaf.extended_key_usage().unwrap().unwrap();
        assert!(extended.value.server_auth && extended.value.client_auth);
        assert!(extended.value.other.is_empty() && !extended.critical);
    }
}

#[test]
fn a_workload_of_a_simulated_tee_has_that_purpose_alone_and_it_is_critical() {
    let evidence = claims::evidence(Tee::Simulated);
    let leaf = issue_attested(&claims::claims(&evidence));
    let leaf = x509(&leaf);
    assert_eq!(claim::<&str>(&leaf, oid::TEE), "simulated");
    let extended = leaf.extended_key_usage().unwrap().unwrap();
    assert!(extended.critical);
    let usage = extended.value;
    assert!(!usage.any && !usage.server_auth && !usage.client_auth && !usage.code_signing);
    assert!(!usage.email_protection && !usage.time_stamping && !usage.ocsp_signing);
    let [purpose] = usage.other.as_slice() else {
        panic!("{:?}", usage.other)
    };
    assert_eq!(purpose.as_bytes(), oid::SIMULATED.der());
}

#[test]
fn a_platform_that_is_hidden_is_no_claim() {
    let evidence = claims::evidence(Tee::Simulated);
    let leaf = issue_attested(&claims::claims(&evidence));
    assert!(extension(&x509(&leaf), oid::PLATFORM).is_none());
}

#[test]
fn a_certificate_without_attestation_claims_nothing() {
    let leaf = issue(&web());
    for oid in CLAIMS {
        assert!(extension(&x509(&leaf), oid).is_none());
    }
}

#[test]
fn no_claim_is_critical_and_none_is_made_twice() {
    let evidence = claims::evidence(Tee::SevSnp);
    let leaf = issue_attested(&claims::claims(&evidence));
    let leaf = x509(&leaf);
    assert!(leaf.extensions_map().is_ok(), "an extension is there twice");
    for oid in CLAIMS {
        assert!(!extension(&leaf, oid).unwrap().critical);
    }
}

#[test]
fn every_transition_number_is_written_as_a_positive_integer() {
    let evidence = claims::evidence(Tee::SevSnp);
    for transition_seq in [0, 127, 128, 1 << 63, u64::MAX] {
        let leaf = issue_attested(&CertificateClaims {
            transition_seq,
            ..claims::claims(&evidence)
        });
        let leaf = x509(&leaf);
        assert_eq!(claim::<u64>(&leaf, oid::TRANSITION), transition_seq);
    }
}

#[test]
fn a_workload_has_no_common_name_that_could_pass_for_a_host_name() {
    let leaf = issue(&web());
    assert_eq!(x509(&leaf).subject().iter_common_name().count(), 0);
}

#[test]
fn cas_sign_certificates_only_as_deep_as_the_chain_needs() {
    let (root, mesh_ca) = pki();
    for (certificate, depth) in [
        (root.certificate(), 1),
        (mesh_ca.certificate(), 0),
        (mesh_ca.intermediate(), 0),
    ] {
        let ca = x509(certificate.der());
        let constraints = ca.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(depth));
        let usage = ca.key_usage().unwrap().unwrap();
        let (cert_sign, crl_sign) = (1 << 5, 1 << 6);
        assert!(usage.critical);
        assert_eq!(usage.value.flags, cert_sign | crl_sign);
        assert_eq!(curve(&ca), OID_NIST_EC_P384);
    }
}

#[test]
fn mesh_ca_and_intermediate_have_one_key_and_one_name() {
    let (root, mesh_ca) = pki();
    let (twin, other) = (
        x509(mesh_ca.certificate().der()),
        x509(mesh_ca.intermediate().der()),
    );
    assert_eq!(twin.public_key(), other.public_key());
    assert_eq!(twin.subject().as_raw(), other.subject().as_raw());
    assert_eq!(twin.issuer().as_raw(), twin.subject().as_raw());
    let root = x509(root.certificate().der());
    assert_eq!(other.issuer().as_raw(), root.subject().as_raw());
}

#[test]
fn each_generation_of_the_mesh_ca_has_its_own_key_and_name() {
    let (root, first) = pki();
    let second = root.new_mesh_ca(ten_years()).unwrap();
    let (first, second) = (
        x509(first.certificate().der()),
        x509(second.certificate().der()),
    );
    assert_ne!(first.public_key(), second.public_key());
    assert_ne!(first.subject().as_raw(), second.subject().as_raw());
}

#[test]
fn serials_are_random_positive_and_at_most_128_bits() {
    let (_, mesh_ca) = pki();
    let key = PrivateKey::generate(Curve::P256).unwrap().public_key();
    let serials: HashSet<_> = (0..32)
        .map(|_| {
            let issued = mesh_ca.issue(&web(), a_day(), &key).unwrap();
            let leaf = x509(&issued.chain()[0]);
            assert!(leaf.raw_serial()[0] < 0x80, "negative");
            assert!((64..=128).contains(&leaf.serial.bits()));
            leaf.serial.clone()
        })
        .collect();
    assert_eq!(serials.len(), 32);
}

#[test]
fn a_workload_never_outlives_its_ca() {
    let (_, mesh_ca) = pki();
    let key = PrivateKey::generate(Curve::P256).unwrap().public_key();
    let end = ten_years().not_after();
    let until = |not_after| Validity::between(NOON, not_after).unwrap();
    assert!(mesh_ca.issue(&web(), until(end), &key).is_ok());
    assert!(matches!(
        mesh_ca.issue(&web(), until(end + Duration::from_secs(1)), &key),
        Err(PkiError::OutlivesCa { ca_not_after, .. }) if ca_not_after == end
    ));
}

#[test]
fn a_mesh_ca_never_outlives_its_root() {
    let (root, _) = pki();
    let too_long = Validity::lasting(NOON, Duration::from_hours(24 * 3651)).unwrap();
    assert!(matches!(
        root.new_mesh_ca(too_long),
        Err(PkiError::OutlivesCa { .. })
    ));
}

#[test]
fn an_identity_of_another_trust_domain_is_refused() {
    let (_, mesh_ca) = pki();
    let key = PrivateKey::generate(Curve::P256).unwrap().public_key();
    let foreign = WorkloadNames::new(id("spiffe://other.local/ns/default/sa/web"));
    assert!(matches!(
        mesh_ca.issue(&foreign, a_day(), &key),
        Err(PkiError::ForeignTrustDomain { .. })
    ));
}

#[test]
fn a_workload_cannot_have_the_name_of_the_whole_trust_domain() {
    let (_, mesh_ca) = pki();
    let key = PrivateKey::generate(Curve::P256).unwrap().public_key();
    let everyone = WorkloadNames::new(id("spiffe://mesh.local"));
    assert!(matches!(
        mesh_ca.issue(&everyone, a_day(), &key),
        Err(PkiError::NoPath { .. })
    ));
}

#[test]
fn only_points_on_p256_are_certified() {
    let (_, mesh_ca) = pki();
    let p384 = PrivateKey::generate(Curve::P384).unwrap().public_key();
    let good = PrivateKey::generate(Curve::P256).unwrap().public_key();
    let mut off_the_curve = good.to_vec();
    *off_the_curve.last_mut().unwrap() ^= 1;
    let bare_point = &good[good.len() - 65..];
    for key in [&p384[..], &off_the_curve, bare_point, &[]] {
        assert!(matches!(
            mesh_ca.issue(&web(), a_day(), &SubjectPublicKeyInfoDer::from(key)),
            Err(PkiError::WorkloadPublicKey)
        ));
    }
}

#[test]
fn cas_survive_pem() {
    let (root, mesh_ca) = pki();
    let key = |key: &PrivateKey| PrivateKey::from_pem(&key.to_pem()).unwrap();
    let root = Root::from_parts(reread(root.certificate()), key(root.key())).unwrap();
    assert!(root.new_mesh_ca(ten_years()).is_ok());
    let mesh_ca = MeshCa::from_parts(
        reread(mesh_ca.certificate()),
        reread(mesh_ca.intermediate()),
        key(mesh_ca.key()),
    )
    .unwrap();
    assert_eq!(mesh_ca.certificate().trust_domain().as_str(), "mesh.local");
    assert_eq!(
        mesh_ca.certificate().validity().not_after(),
        ten_years().not_after()
    );
}

#[test]
fn a_root_made_again_from_its_key_differs_in_nothing_but_the_signature() {
    let (first, mesh_ca) = pki();
    let key = PrivateKey::from_pem(&first.key().to_pem()).unwrap();
    let mesh = first.certificate().trust_domain();
    let second = Root::create(mesh, key, ten_years()).unwrap();
    let (before, after) = (first.certificate().der(), second.certificate().der());
    assert_eq!(
        x509(before).tbs_certificate.as_ref(),
        x509(after).tbs_certificate.as_ref()
    );
    assert_ne!(before, after);
    mesh_ca.check_chains_to(second.certificate()).unwrap();

    let (other, _) = pki();
    assert_ne!(x509(other.certificate().der()).serial, x509(before).serial);
    assert!(matches!(
        mesh_ca.check_chains_to(other.certificate()),
        Err(PkiError::NotSignedByRoot)
    ));
}

#[test]
fn the_serial_of_a_root_is_positive_and_of_full_length() {
    for _ in 0..16 {
        let (root, _) = pki();
        let root = x509(root.certificate().der());
        assert_eq!(root.serial.bits(), 127);
        assert_eq!(root.raw_serial().len(), 16);
    }
}

#[test]
fn parts_of_different_generations_are_refused() {
    let (root, first) = pki();
    let second = root.new_mesh_ca(ten_years()).unwrap();
    let key = |key: &PrivateKey| PrivateKey::from_pem(&key.to_pem()).unwrap();
    assert!(matches!(
        MeshCa::from_parts(
            first.certificate().clone(),
            first.intermediate().clone(),
            key(second.key())
        ),
        Err(PkiError::KeyMismatch)
    ));
    assert!(matches!(
        MeshCa::from_parts(
            first.certificate().clone(),
            second.intermediate().clone(),
            key(first.key())
        ),
        Err(PkiError::NotTwins)
    ));
}

#[test]
fn a_workload_certificate_is_no_ca_certificate() {
    let (_, mesh_ca) = pki();
    let key = PrivateKey::generate(Curve::P256).unwrap();
    let issued = mesh_ca.issue(&web(), a_day(), &key.public_key()).unwrap();
    let chain = issued.chain_pem();
    let leaf = &chain[..chain.rfind("-----BEGIN").unwrap()];
    assert!(matches!(
        CaCertificate::from_pem(leaf),
        Err(PkiError::NotCa)
    ));
}

fn pki() -> (Root, MeshCa) {
    let mesh = TrustDomain::parse("mesh.local").unwrap();
    let key = PrivateKey::generate(Curve::P384).unwrap();
    let root = Root::create(&mesh, key, ten_years()).unwrap();
    let mesh_ca = root.new_mesh_ca(ten_years()).unwrap();
    (root, mesh_ca)
}

fn issue(names: &WorkloadNames) -> Vec<u8> {
    let key = PrivateKey::generate(Curve::P256).unwrap();
    let (_, mesh_ca) = pki();
    let issued = mesh_ca.issue(names, a_day(), &key.public_key()).unwrap();
    issued.chain()[0].to_vec()
}

fn issue_attested(claims: &CertificateClaims<'_>) -> Vec<u8> {
    let key = PrivateKey::generate(Curve::P256).unwrap().public_key();
    let (_, mesh_ca) = pki();
    let issued = mesh_ca
        .issue_attested(&web(), a_day(), &key, claims)
        .unwrap();
    issued.chain()[0].to_vec()
}

/// The value of a claim; panics unless it fills its extension.
fn claim<'d, T>(certificate: &X509Certificate<'d>, oid: Oid) -> T
where
    T: FromDer<'d>,
{
    let value = extension(certificate, oid).unwrap().value;
    let (rest, value) = T::from_der(value).ok().unwrap();
    assert!(rest.is_empty());
    value
}

fn extension<'c, 'd>(
    certificate: &'c X509Certificate<'d>,
    oid: Oid,
) -> Option<&'c X509Extension<'d>> {
    let oid = x509_parser::der_parser::Oid::new(oid.der().into());
    certificate.get_extension_unique(&oid).unwrap()
}

const CLAIMS: [Oid; 6] = [
    oid::TEE,
    oid::MEASUREMENT,
    oid::HOST_DATA,
    oid::PLATFORM,
    oid::MANIFEST,
    oid::TRANSITION,
];

fn reread(certificate: &CaCertificate) -> CaCertificate {
    CaCertificate::from_pem(&certificate.pem()).unwrap()
}

fn x509(der: &[u8]) -> X509Certificate<'_> {
    X509Certificate::from_der(der).unwrap().1
}

fn curve(certificate: &X509Certificate<'_>) -> x509_parser::der_parser::Oid<'static> {
    let parameters = certificate.public_key().algorithm.parameters.as_ref();
    parameters.unwrap().as_oid().unwrap().to_owned()
}

fn web() -> WorkloadNames {
    WorkloadNames::new(id("spiffe://mesh.local/ns/default/sa/web"))
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn dns(text: &str) -> DnsName {
    text.parse().unwrap()
}

fn a_day() -> Validity {
    Validity::lasting(NOON, Duration::from_hours(24)).unwrap()
}

fn ten_years() -> Validity {
    Validity::lasting(NOON, Duration::from_hours(24 * 3650)).unwrap()
}
