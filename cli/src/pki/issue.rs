use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use attestation::identity::{DnsName, SpiffeId};
use clap::Args;
use coordinator::pki::{PkiDir, PkiDirError, PkiError, Validity, ValidityError, WorkloadNames};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::args::{Lifetime, rfc3339};
use crate::failure::Failure;

/// Issue a certificate with a fresh key to a workload.
///
/// The SPIFFE ID is `spiffe://<trust domain>/ns/<namespace>/sa/<name>`, unless --spiffe-id gives
/// another one of the same trust domain. A certificate in the same directory is replaced;
/// a running agent takes up the new one.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Issue {
    /// The directory that `sealwire pki init` made
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// The workload's name
    #[arg(long, required_unless_present = "spiffe_id")]
    name: Option<String>,

    /// The workload's namespace
    #[arg(long, default_value = "default")]
    namespace: String,

    /// The whole SPIFFE ID, in place of --namespace and --name
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,

    /// A host name of the workload, no wildcard; may be repeated
    #[arg(long, value_name = "NAME")]
    dns: Vec<DnsName>,

    /// An IP address of the workload; may be repeated
    #[arg(long, value_name = "ADDR")]
    ip: Vec<IpAddr>,

    /// How long the certificate is valid: a number and s, m, h or d
    #[arg(long, default_value = "24h", value_name = "TIME")]
    lifetime: Lifetime,

    /// The beginning of validity, past or future [default: five minutes ago]
    #[arg(long, value_parser = rfc3339, value_name = "RFC3339")]
    not_before: Option<OffsetDateTime>,

    /// The end of validity, past or future, in place of --lifetime
    #[arg(long, value_parser = rfc3339, value_name = "RFC3339", conflicts_with = "lifetime")]
    not_after: Option<OffsetDateTime>,

    /// The directory for certChain.pem, key.pem, mesh-ca.pem and coordinator-root-ca.pem
    #[arg(long, value_name = "TLSDIR")]
    out: PathBuf,
}

impl Issue {
    pub(super) fn run(self) -> Result<String, Failure> {
        let pki = PkiDir::open(&self.dir)?;
        let names = WorkloadNames {
            spiffe_id: self.spiffe_id(&pki)?,
            dns: self.dns.clone(),
            ip: self.ip.clone(),
        };
        let validity = self
            .validity(OffsetDateTime::now_utc())
            .map_err(|error| Failure::Usage(error.into()))?;
        let issued = pki
            .issue_to_dir(&names, validity, &self.out)
            .map_err(by_who_has_to_act)?;

        let expiry = validity.not_after().format(&Rfc3339)?;
        let mut text = format!(
            "issued {} valid until {expiry}\n",
            issued.certificate.spiffe_id()
        );
        for file in &issued.files {
            writeln!(text, "  {}", file.display())?;
        }
        Ok(text)
    }

    fn spiffe_id(&self, pki: &PkiDir) -> Result<SpiffeId, Failure> {
        let name = match (&self.spiffe_id, &self.name) {
            (Some(spiffe_id), _) => return Ok(spiffe_id.clone()),
            (None, Some(name)) => name,
            (None, None) => return Err(Failure::usage("give --name or --spiffe-id")),
        };
        let Self { namespace, .. } = self;
        SpiffeId::workload(pki.root().trust_domain(), namespace, name)
            .with_context(|| {
                format!("cannot make a SPIFFE ID of --namespace {namespace:?} and --name {name:?}")
            })
            .map_err(Failure::Usage)
    }

    fn validity(&self, now: OffsetDateTime) -> Result<Validity, ValidityError> {
        let Lifetime(lifetime) = self.lifetime;
        match (self.not_before, self.not_after) {
            (None, None) => Validity::lasting(now, lifetime),
            (Some(not_before), None) => Validity::starting(not_before, lifetime),
            (None, Some(not_after)) => Validity::between(now - Validity::BACKDATED, not_after),
            (Some(not_before), Some(not_after)) => Validity::between(not_before, not_after),
        }
    }
}

/// What the command line asked for and no CA grants is wrong usage; the rest just failed.
fn by_who_has_to_act(error: PkiDirError) -> Failure {
    match error {
        PkiDirError::Pki(
            PkiError::OutlivesCa { .. }
            | PkiError::ForeignTrustDomain { .. }
            | PkiError::NoPath { .. },
        ) => Failure::Usage(error.into()),
        _ => Failure::Failed(error.into()),
    }
}

const EXAMPLES: &str = "\
Examples:
  sealwire pki issue --dir pki --name web --out web-tls
  sealwire pki issue --dir pki --namespace shop --name db --dns db.shop.svc --ip 10.0.0.7 --out db-tls
  sealwire pki issue --dir pki --spiffe-id spiffe://mesh.local/batch/nightly --lifetime 1h --out nightly-tls

A certificate that has expired already, to see it refused:
  sealwire pki issue --dir pki --name old --not-before 2026-01-01T00:00:00Z --not-after 2026-01-02T00:00:00Z --out old-tls";
