//! What the certificates say: RFC 5280 with the X.509-SVID specification on top.

use attestation::identity::{SpiffeId, TrustDomain};
use aws_lc_rs::{digest, rand};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyIdMethod,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};

use super::claims::{CertificateClaims, Purpose};
use super::error::PkiError;
use super::names::WorkloadNames;
use super::validity::Validity;

/// A CA of `trust_domain` with `intermediates` levels of CAs below it.
pub(super) fn ca(
    common_name: &str,
    trust_domain: &TrustDomain,
    key: &impl PublicKeyData,
    intermediates: u8,
    validity: Validity,
) -> Result<CertificateParams, PkiError> {
    let mut params = common(key, validity)?;
    // The key's identifier makes the name of each generation unique, so that verifiers which look
    // issuers up by name meet one candidate while two generations are trusted.
    let [a, b, c, d, ..] = key_identifier(key);
    let generation = u32::from_be_bytes([a, b, c, d]);
    params.distinguished_name.push(
        DnType::CommonName,
        format!("{common_name} {generation:08x}"),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(intermediates));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    Ok(params)
}

/// A workload, client and server at once, and why it may be, where it had to prove that.
///
/// The subject has no common name: some clients would take it for a host name.
pub(super) fn workload(
    names: &WorkloadNames,
    key: &impl PublicKeyData,
    validity: Validity,
    claims: Option<&CertificateClaims<'_>>,
) -> Result<CertificateParams, PkiError> {
    let WorkloadNames { spiffe_id, dns, ip } = names;
    let mut params = common(key, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let purpose = claims.map_or(Purpose::Tls, CertificateClaims::purpose);
    params.extended_key_usages = purpose.extended_key_usages();
    params
        .custom_extensions
        .extend(purpose.critical_extended_key_usage()?);
    if let Some(claims) = claims {
        params.custom_extensions.extend(claims.extensions()?);
    }
    params.subject_alt_names = vec![uri(spiffe_id.as_str())?];
    for name in dns {
        params
            .subject_alt_names
            .push(SanType::DnsName(ia5(name.as_str())?));
    }
    params
        .subject_alt_names
        .extend(ip.iter().copied().map(SanType::IpAddress));
    Ok(params)
}

/// The trust domain that [`ca`] wrote into a certificate.
pub(super) fn trust_domain_of_uri(uri: &str) -> Option<TrustDomain> {
    let id = SpiffeId::parse(uri).ok()?;
    id.path().is_empty().then(|| id.trust_domain().clone())
}

/// 128 random bits: more than the 64 that keep an attacker from predicting what will be signed.
pub(super) fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| PkiError::Random)?;
    Ok(SerialNumber::from_slice(&bytes))
}

/// A serial that goes with the key, for a certificate that its key signs itself and of which there is
/// one: made again from the same key and validity, it differs in its signature alone. 127 bits,
/// none of which anybody could choose for a signature of somebody else's.
pub(super) fn serial_of(key: &impl PublicKeyData) -> SerialNumber {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&key_identifier(key)[..16]);
    // Neither negative nor shorter (RFC 5280, section 4.1.2.2).
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn common(key: &impl PublicKeyData, validity: Validity) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(key).to_vec());
    params.serial_number = Some(random_serial()?);
    params.not_before = validity.not_before();
    params.not_after = validity.not_after();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Sealwire");
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// RFC 7093, section 2, method 1. (rcgen's own method hashes more than the key.)
fn key_identifier(key: &impl PublicKeyData) -> [u8; 20] {
    let mut identifier = [0; 20];
    let hash = digest::digest(&digest::SHA256, key.der_bytes());
    identifier.copy_from_slice(&hash.as_ref()[..20]);
    identifier
}

fn uri(text: &str) -> Result<SanType, PkiError> {
    ia5(text).map(SanType::URI)
}

fn ia5(text: &str) -> Result<Ia5String, PkiError> {
    text.try_into().map_err(PkiError::Sign)
}
