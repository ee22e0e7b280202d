//! The certificates that were given: which of them may have signed a report, and whether they hold
//! together.

use attestation::{Code, Refusal};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

/// The certificates that may be of the key that signs reports. There is one at least.
///
/// AMD's own certificates need not be given, as they are built in. Where they are, in whatever
/// order, each certificate must be signed by one of them.
pub(super) fn signing_certificates(given: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Refusal> {
    let parsed = given
        .iter()
        .map(|der| match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(certificate),
            _ => Err(Refusal::new(
                Code::Malformed,
                "certs",
                format_args!("{} bytes", der.len()),
                "a certificate (RFC 5280), DER or PEM",
            )),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let issuers: Vec<_> = parsed.iter().filter(|it| it.is_ca()).collect();
    for certificate in &parsed {
        let is_issuer = |it: &&&X509Certificate<'_>| {
            it.subject().as_raw() == certificate.issuer().as_raw()
                && certificate.verify_signature(Some(it.public_key())).is_ok()
        };
        if !issuers.is_empty() && !issuers.iter().any(|it| is_issuer(&it)) {
            return Err(Refusal::new(
                Code::Chain,
                "certs",
                format_args!(
                    "{}, by none of the issuers given",
                    shown(certificate.subject())
                ),
                format_args!(
                    "{} among them, or no issuer at all",
                    shown(certificate.issuer())
                ),
            ));
        }
    }
    let signing: Vec<_> = given
        .iter()
        .zip(&parsed)
        .filter(|(_, certificate)| !certificate.is_ca())
        .map(|(der, _)| der.clone())
        .collect();
    if signing.is_empty() {
        // What is wrong with an authority's certificate, or none, is for the verifier to say.
        return Ok(vec![given.first().cloned().unwrap_or_default()]);
    }
    Ok(signing)
}

/// Whoever made the certificate chose the name.
fn shown(name: &X509Name<'_>) -> String {
    let text = name.to_string();
    text.chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}
