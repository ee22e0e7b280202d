//! What Sealwire reads from an X.509 certificate. Verifies nothing.

use std::time::{Duration, SystemTime};

use attestation::identity::SpiffeId;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::assurance::Assurance;
use crate::credentials::Validity;

/// The fields of one certificate.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) validity: Validity,
    pub(crate) is_ca: bool,
    pub(crate) assurance: Assurance,
    /// The SPIFFE ID, or why there is none.
    pub(crate) identity: Result<SpiffeId, IdentityProblem>,
}

impl Facts {
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Unreadable)?;
        Ok(Self {
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            validity: Validity {
                not_before: system_time(certificate.validity().not_before.timestamp()),
                not_after: system_time(certificate.validity().not_after.timestamp()),
            },
            is_ca: certificate.is_ca(),
            assurance: Assurance::of(&certificate),
            identity: identity(&certificate),
        })
    }
}

/// A certificate that is not well-formed DER.
#[derive(Debug, thiserror::Error)]
#[error("not an X.509 certificate")]
pub(crate) struct Unreadable;

/// Why a certificate names no workload (SPIFFE X.509-SVID section 2).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityProblem {
    /// The certificate has no URI among its alternative names.
    #[error("no URI among the subject alternative names")]
    NoUri,
    /// The certificate has more than one URI, so it names nobody.
    #[error("{0} URIs among the subject alternative names, exactly one is allowed")]
    SeveralUris(usize),
    /// The URI is not a SPIFFE ID.
    #[error("the URI {uri:?} is not a SPIFFE ID: {problem}")]
    NotSpiffe {
        /// The URI as presented.
        uri: String,
        /// What the parser says.
        problem: String,
    },
}

fn identity(certificate: &X509Certificate<'_>) -> Result<SpiffeId, IdentityProblem> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let mut uris = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let uri = uris.next().ok_or(IdentityProblem::NoUri)?;
    let further = uris.count();
    if further > 0 {
        return Err(IdentityProblem::SeveralUris(1 + further));
    }
    SpiffeId::parse(uri).map_err(|problem| IdentityProblem::NotSpiffe {
        uri: uri.to_owned(),
        problem: problem.to_string(),
    })
}

fn name(name: &x509_parser::x509::X509Name<'_>) -> String {
    match name.to_string() {
        empty if empty.is_empty() => "(empty)".to_owned(),
        text => text,
    }
}

/// X.509 may name years before 1970, for which no certificate of a mesh has a use.
fn system_time(timestamp: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(timestamp.try_into().unwrap_or(0))
}
