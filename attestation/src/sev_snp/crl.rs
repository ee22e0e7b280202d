//! Revocation by AMD.
//!
//! AMD's lists are signed by the root. One that the ASK or ASVK signed would do for VCEKs or VLEKs,
//! if its certificate lets it sign lists. A serial number says something of certificates by the
//! list's signer alone: all VCEKs have number 0.

use std::time::Duration;

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use rustls_pki_types::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

use super::chain::rfc3339;
use super::roots::{Anchors, signer_name};
use super::vek::{Vek, common_name};
use crate::refusal::{Code, Refusal};

/// Checks that the list is AMD's and of `now`, and has none of the chain's certificates.
pub(super) fn check(
    der: &[u8],
    vek: &Vek<'_>,
    anchors: &Anchors,
    now: UnixTime,
) -> Result<(), Refusal> {
    let Ok(([], crl)) = CertificateRevocationList::from_der(der) else {
        return Err(malformed("another thing"));
    };
    let ark = certificate("ark", &anchors.ark)?;
    let signer_name = signer_name(vek.key());
    let signer = certificate(signer_name, anchors.signer(vek.key()))?;

    let (issuer, subjects) = if crl.issuer().as_raw() == ark.subject().as_raw() {
        (&ark, vec![("ark", &ark), (signer_name, &signer)])
    } else if crl.issuer().as_raw() == signer.subject().as_raw() {
        (&signer, vec![(vek.key().as_str(), vek.certificate())])
    } else {
        return Err(Refusal::new(
            Code::Collateral,
            "crl.issuer",
            common_name(crl.issuer()),
            format_args!("the ark or {signer_name} of {}", anchors.product),
        ));
    };
    check_signature(&crl, issuer)?;
    check_extensions(&crl)?;
    check_dates(&crl, now)?;
    for (name, certificate) in subjects {
        let serial = certificate.raw_serial();
        if crl
            .iter_revoked_certificates()
            .any(|revoked| revoked.raw_serial() == serial)
        {
            return Err(Refusal::new(
                Code::Revoked,
                format!("{name}.serialNumber"),
                format_args!("{} (revoked)", hex::encode(serial)),
                "not on AMD's revocation list",
            ));
        }
    }
    Ok(())
}

/// The algorithm that the list names does not matter: whatever it says, this is the one that holds.
fn check_signature(
    crl: &CertificateRevocationList<'_>,
    issuer: &X509Certificate<'_>,
) -> Result<(), Refusal> {
    let may_sign_lists = issuer
        .key_usage()
        .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()));
    if !may_sign_lists {
        return Err(Refusal::new(
            Code::Collateral,
            "crl.issuer",
            common_name(issuer.subject()),
            "an authority that may sign lists",
        ));
    }
    UnparsedPublicKey::new(
        &RSA_PSS_2048_8192_SHA384,
        &issuer.public_key().subject_public_key.data,
    )
    .verify(crl.tbs_cert_list.as_ref(), &crl.signature_value.data)
    .map_err(|_| {
        Refusal::new(
            Code::Collateral,
            "crl.signature",
            "invalid",
            format_args!("a signature by {}", common_name(issuer.subject())),
        )
    })
}

/// What is critical changes the list's meaning, so that it must be understood (RFC 5280, sections
/// 5.2 and 5.3). A list that covers a part of the certificates is as good as none for the others;
/// one that speaks for other issuers is not told apart from one that does not.
fn check_extensions(crl: &CertificateRevocationList<'_>) -> Result<(), Refusal> {
    let harmless = |extension: &X509Extension<'_>| match extension.parsed_extension() {
        ParsedExtension::CRLNumber(_)
        | ParsedExtension::AuthorityKeyIdentifier(_)
        | ParsedExtension::ReasonCode(_)
        | ParsedExtension::InvalidityDate(_) => true,
        ParsedExtension::IssuingDistributionPoint(scope) => !scope.indirect_crl,
        _ => !extension.critical,
    };
    let entries = crl
        .iter_revoked_certificates()
        .flat_map(|revoked| revoked.extensions());
    match crl
        .extensions()
        .iter()
        .chain(entries)
        .find(|it| !harmless(it))
    {
        Some(extension) => Err(Refusal::new(
            Code::Collateral,
            "crl.extensions",
            &extension.oid,
            "none that is critical and not understood",
        )),
        None => Ok(()),
    }
}

fn check_dates(crl: &CertificateRevocationList<'_>, now: UnixTime) -> Result<(), Refusal> {
    let this_update = unix_time(crl.last_update());
    if now < this_update {
        return Err(Refusal::new(
            Code::NotYetValid,
            "crl.thisUpdate",
            rfc3339(this_update),
            format_args!("at or before {}", rfc3339(now)),
        ));
    }
    let next_update = unix_time(
        crl.next_update()
            .ok_or_else(|| malformed("without nextUpdate"))?,
    );
    if next_update <= now {
        return Err(Refusal::new(
            Code::Expired,
            "crl.nextUpdate",
            rfc3339(next_update),
            format_args!("after {}", rfc3339(now)),
        ));
    }
    Ok(())
}

/// Dates before 1970 are as old as can be.
fn unix_time(time: ASN1Time) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(
        time.timestamp().try_into().unwrap_or_default(),
    ))
}

fn certificate<'a>(name: &str, der: &'a [u8]) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(Refusal::new(
            Code::Chain,
            name,
            "unreadable",
            "a certificate, DER",
        )),
    }
}

fn malformed(got: &str) -> Refusal {
    Refusal::new(
        Code::Malformed,
        "crl",
        got,
        "a certificate revocation list (RFC 5280), DER",
    )
}
