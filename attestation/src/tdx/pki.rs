//! Chains of certificates to Intel's root, with revocation.

use std::fmt::Display;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webpki::aws_lc_rs::ECDSA_P256_SHA256;
use webpki::{CertRevocationList, Error, OwnedCertRevocationList};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::refusal::{Code, Refusal};

/// The root with the revocation lists of it and of the authority that certifies platforms.
pub(super) struct Pki<'a> {
    root: &'a CertificateDer<'a>,
    anchor: [TrustAnchor<'a>; 1],
    root_crl: Crl,
    pck_crl: Crl,
    now: UnixTime,
}

struct Crl {
    field: &'static str,
    list: CertRevocationList<'static>,
    issuer: String,
    dates: (i64, i64),
}

/// Certificates that are looked at behind the first; Intel's chains have two.
const MAX_ISSUERS: usize = 4;

impl<'a> Pki<'a> {
    /// Checks that the root holds at `now`. The lists are not verified yet.
    pub(super) fn new(
        root: &'a CertificateDer<'a>,
        root_crl: &[u8],
        pck_crl: &[u8],
        now: UnixTime,
    ) -> Result<Self, Refusal> {
        check_root(root, now)?;
        let anchor = webpki::anchor_from_trusted_cert(root).map_err(|error| bad_root(&error))?;
        Ok(Self {
            root,
            anchor: [anchor],
            root_crl: Crl::parse("collateral.root_ca_crl", root_crl)?,
            pck_crl: Crl::parse("collateral.pck_crl", pck_crl)?,
            now,
        })
    }

    /// Checks that each list is current and by the authority that it is for, and that the root is
    /// not on its own. Their signatures are checked with the chains.
    pub(super) fn check_lists(&self, pck: &Chain) -> Result<(), Refusal> {
        let [anchor] = &self.anchor;
        let pck = webpki::EndEntityCert::try_from(&pck.leaf)
            .map_err(|error| classify(pck.field, &error, Code::Chain))?;
        self.root_crl.check(anchor.subject.as_ref(), self.now)?;
        self.pck_crl.check(pck.issuer(), self.now)?;
        let root = webpki::EndEntityCert::try_from(self.root).map_err(|error| bad_root(&error))?;
        match self.root_crl.list.find_serial(root.serial()) {
            Ok(None) => Ok(()),
            _ => Err(revoked("root")),
        }
    }

    /// Checks a chain up to the root, with both revocation lists. `unrelated` is what to call a
    /// chain that does not lead there.
    pub(super) fn check_chain(&self, chain: &Chain, unrelated: Code) -> Result<(), Refusal> {
        let field = chain.field;
        let lists = [&self.root_crl.list, &self.pck_crl.list];
        let revocation = webpki::RevocationOptionsBuilder::new(&lists)
            .map_err(|_| Refusal::new(Code::Missing, field, "no revocation list", "two"))?
            .with_depth(webpki::RevocationCheckDepth::Chain)
            .with_status_policy(webpki::UnknownStatusPolicy::Deny)
            .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
            .build();
        webpki::EndEntityCert::try_from(&chain.leaf)
            .and_then(|leaf| {
                leaf.verify_for_usage(
                    &[ECDSA_P256_SHA256],
                    &self.anchor,
                    &chain.rest,
                    self.now,
                    webpki::KeyUsage::server_auth(), // holds without extended key usage, as here
                    Some(revocation),
                    None,
                )
                .map(|_| ())
            })
            .map_err(|error| match error {
                Error::CrlExpired { next_update, .. } => self.expired_list(next_update),
                other => classify(field, &other, unrelated),
            })
    }

    /// webpki does not say which list it is, but until when that was valid.
    fn expired_list(&self, next_update: UnixTime) -> Refusal {
        let is_root = unix(next_update) == rfc3339(self.root_crl.dates.1);
        let field = if is_root {
            self.root_crl.field
        } else {
            self.pck_crl.field
        };
        let got = format!("valid before {}", unix(next_update));
        let want = format!("valid at {}", unix(self.now));
        Refusal::new(Code::Expired, field, got, want)
    }
}

/// A chain of certificates. Nothing in it is verified.
pub(super) struct Chain {
    /// Where it was found.
    pub(super) field: &'static str,
    /// The certificate that it is for.
    pub(super) leaf: CertificateDer<'static>,
    rest: Vec<CertificateDer<'static>>,
}

impl Chain {
    /// Reads a chain, leaf first, PEM.
    pub(super) fn read(field: &'static str, pem: &[u8]) -> Result<Self, Refusal> {
        let malformed = |got| Refusal::new(Code::Malformed, field, got, "certificates, PEM");
        let mut certificates = CertificateDer::pem_slice_iter(pem);
        let mut next = || {
            let next = certificates.next().transpose();
            next.map_err(|error| malformed(error.to_string()))
        };
        let leaf = next()?.ok_or_else(|| malformed("no certificate".into()))?;
        let mut rest = Vec::new();
        while let Some(certificate) = next()? {
            rest.push(certificate);
            if rest.len() > MAX_ISSUERS {
                let got = format!("more than {MAX_ISSUERS} issuers");
                return Err(malformed(got));
            }
        }
        Ok(Self { field, leaf, rest })
    }
}

/// Refuses what is not valid at `now`, both ends included.
pub(super) fn check_dates(
    field: &str,
    (from, to): (i64, i64),
    now: UnixTime,
) -> Result<(), Refusal> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let refusal = |code, bound, relation| {
        let got = format!("valid {relation} {}", rfc3339(bound));
        Refusal::new(code, field, got, format_args!("valid at {}", rfc3339(now)))
    };
    if now < from {
        return Err(refusal(Code::NotYetValid, from, "from"));
    }
    if now > to {
        return Err(refusal(Code::Expired, to, "until"));
    }
    Ok(())
}

impl Crl {
    fn parse(field: &'static str, der: &[u8]) -> Result<Self, Refusal> {
        let malformed = |got: &dyn Display| {
            Refusal::new(Code::Collateral, field, got, "a revocation list, DER")
        };
        let list = OwnedCertRevocationList::from_der(der).map_err(|error| malformed(&error))?;
        let (_, parsed) =
            CertificateRevocationList::from_der(der).map_err(|error| malformed(&error))?;
        let until = parsed.next_update().map_or(i64::MAX, |it| it.timestamp());
        Ok(Self {
            field,
            list: list.into(),
            issuer: parsed.issuer().to_string(),
            dates: (parsed.last_update().timestamp(), until),
        })
    }

    fn check(&self, issuer: &[u8], now: UnixTime) -> Result<(), Refusal> {
        if self.list.issuer() != issuer {
            return Err(Refusal::new(
                Code::Collateral,
                self.field,
                format_args!("issued by {}", self.issuer),
                "issued by the authority whose certificates it is for",
            ));
        }
        check_dates(self.field, self.dates, now)
    }
}

fn check_root(root: &CertificateDer<'_>, now: UnixTime) -> Result<(), Refusal> {
    let (_, certificate) = X509Certificate::from_der(root).map_err(|error| bad_root(&error))?;
    let validity = certificate.validity();
    let dates = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    check_dates("root", dates, now)
}

fn classify(field: &str, error: &Error, unrelated: Code) -> Refusal {
    let code = match error {
        Error::CertNotValidYet { .. } => Code::NotYetValid,
        Error::CertExpired { .. } => Code::Expired,
        Error::CertRevoked => return revoked(field),
        Error::UnknownRevocationStatus
        | Error::InvalidCrlSignatureForPublicKey
        | Error::IssuerNotCrlSigner => Code::Collateral,
        _ => unrelated,
    };
    let got = match error {
        Error::CertNotValidYet { not_before, .. } => format!("valid from {}", unix(*not_before)),
        Error::CertExpired { not_after, .. } => format!("valid until {}", unix(*not_after)),
        other => other.to_string(),
    };
    Refusal::new(code, field, got, "a chain to Intel's root that holds now")
}

fn revoked(field: &str) -> Refusal {
    Refusal::new(Code::Revoked, field, "revoked", "not revoked")
}

fn bad_root(error: &dyn Display) -> Refusal {
    Refusal::new(Code::Chain, "root", error, "a certificate, DER")
}

fn unix(time: UnixTime) -> String {
    i64::try_from(time.as_secs()).map_or_else(|_| "?".into(), rfc3339)
}

/// A moment in seconds since 1970, for people.
pub(super) fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}
