use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use attestation::{
    Evidence, ReferenceValues, Refusal, Refusals, ReportData, SimulatedTee, Tee, Verifier, sev_snp,
    tdx,
};
use clap::Args;
use rustls_pki_types::UnixTime;
use serde_json::json;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files::{binary_or_hex, certificates, read};
use super::judgement::refused;
use crate::args::rfc3339;
use crate::failure::Failure;

/// Verify a report or quote: exit code 0 accepted, 1 refused.
///
/// Without --reference it judges authenticity, freshness and debugging alone: that it is a genuine
/// TEE, not which program runs in it.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Verify {
    /// The TEE: sev-snp or tdx
    #[arg(long, value_name = "TEE")]
    tee: Tee,

    /// A raw report (1184 bytes) or quote, binary or hexadecimal
    #[arg(long, value_name = "FILE")]
    evidence: PathBuf,

    /// Certificates of AMD's for the chip, PEM or DER: the VCEK or VLEK; others are not needed, as
    /// AMD's roots are built in (SEV-SNP)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    certs: Vec<PathBuf>,

    /// AMD's certificate revocation list, DER (SEV-SNP)
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,

    /// Intel's collateral for the platform, JSON (TDX)
    #[arg(long, value_name = "FILE")]
    collateral: Option<PathBuf>,

    /// The time to judge at [default: now]
    #[arg(long, value_parser = rfc3339, value_name = "RFC3339")]
    at: Option<OffsetDateTime>,

    /// Reference values: a manifest, or its ReferenceValues object alone, JSON
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,

    /// What the report data must be, 128 hexadecimal digits [default: not compared]
    #[arg(long, value_name = "HEX", requires = "reference", value_parser = report_data)]
    report_data: Option<ReportData>,

    /// As JSON: `ok`, and where refused `code`, `field`, `got`, `want`
    #[arg(long)]
    json: bool,
}

/// Evidence that was accepted.
struct Accepted {
    /// The reference value that it matches; `None` where there was none to match.
    reference: Option<String>,
    fields: Vec<(&'static str, String)>,
}

impl Verify {
    pub(super) fn run(self) -> Result<String, Failure> {
        let now = self.at.unwrap_or_else(OffsetDateTime::now_utc);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(now.unix_timestamp()).unwrap_or(0),
        ));
        let bytes = binary_or_hex(&self.evidence)?;
        let reference = self.reference()?;
        let verdict = match self.tee {
            Tee::SevSnp => self.sev_snp(bytes, reference.as_ref(), now)?,
            Tee::Tdx => self.tdx(bytes, reference.as_ref(), now)?,
            Tee::Simulated => {
                return Err(Failure::usage(
                    "evidence of the simulated TEE exists within a connection alone",
                ));
            }
        };
        match verdict {
            Ok(accepted) => self.accepted(&accepted),
            Err(refusals) => Err(refused(&refusals, self.json)),
        }
    }

    fn sev_snp(
        &self,
        report: Vec<u8>,
        reference: Option<&ReferenceValues>,
        now: UnixTime,
    ) -> Result<Result<Accepted, Refusals>, Failure> {
        let vek = signing_certificate(certificates(&self.certs)?);
        let crl = self.crl.as_deref().map(read).transpose()?;
        let evidence = sev_snp::Evidence { report, vek, crl };
        let judge = || {
            let report = sev_snp::authenticate(&evidence, &sev_snp::Roots::amd(), now)?;
            if reference.is_none() {
                report.check_baseline().map_err(of_none)?;
            }
            let fields = report.report().fields();
            let own = report.report().report_data;
            Ok((fields, own))
        };
        Ok(judge().and_then(|(fields, own)| {
            self.appraise(
                &Evidence::SevSnp(evidence.clone()),
                fields,
                own,
                reference,
                now,
            )
        }))
    }

    fn tdx(
        &self,
        quote: Vec<u8>,
        reference: Option<&ReferenceValues>,
        now: UnixTime,
    ) -> Result<Result<Accepted, Refusals>, Failure> {
        let collateral = self.collateral.as_deref().map(read).transpose()?;
        let evidence = tdx::Evidence {
            quote,
            collateral: collateral.unwrap_or_default(),
        };
        let judge = || {
            let quote = tdx::authenticate(&evidence, &tdx::Root::intel(), now)?;
            if reference.is_none() {
                quote.check_baseline().map_err(of_none)?;
            }
            let own = ReportData(quote.quote().report().report_data);
            Ok((quote.fields(), own))
        };
        Ok(judge().and_then(|(fields, own)| {
            self.appraise(
                &Evidence::Tdx(evidence.clone()),
                fields,
                own,
                reference,
                now,
            )
        }))
    }

    fn appraise(
        &self,
        evidence: &Evidence,
        fields: Vec<(&'static str, String)>,
        own: ReportData,
        reference: Option<&ReferenceValues>,
        now: UnixTime,
    ) -> Result<Accepted, Refusals> {
        let Some(reference) = reference else {
            return Ok(Accepted {
                reference: None,
                fields,
            });
        };
        let report_data = self.report_data.unwrap_or(own);
        let result = Verifier::new(SimulatedTee::Refused).appraise(
            evidence,
            &report_data,
            reference,
            now,
        )?;
        Ok(Accepted {
            reference: Some(result.reference().to_owned()),
            fields,
        })
    }

    fn reference(&self) -> Result<Option<ReferenceValues>, Failure> {
        let Some(path) = &self.reference else {
            return Ok(None);
        };
        manifest::reference_values_of(&read(path)?)
            .map(Some)
            .map_err(|errors| Failure::usage(format!("{} is not valid:\n{errors}", path.display())))
    }

    fn accepted(&self, accepted: &Accepted) -> Result<String, Failure> {
        let judged = match (&accepted.reference, self.report_data) {
            (None, _) => {
                "authenticity, freshness and debugging alone; which program runs is not judged \
                 without --reference"
            }
            (Some(_), None) => {
                "everything but the report data, which says what session the evidence is of"
            }
            (Some(_), Some(_)) => "everything",
        };
        if self.json {
            let fields: serde_json::Map<_, _> = accepted
                .fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
                .collect();
            let value = json!({
                "ok": true,
                "tee": self.tee.as_str(),
                "judged": judged,
                "reference": accepted.reference,
                "fields": fields,
            });
            return Ok(format!("{value:#}\n"));
        }
        let mut text = String::from("accepted\n");
        if let Some(reference) = &accepted.reference {
            writeln!(text, "  matches {reference}")?;
        }
        writeln!(text, "  judged: {judged}")?;
        Ok(text)
    }
}

/// The certificate that reports are signed with, among those that were given.
fn signing_certificate(certificates: Vec<Vec<u8>>) -> Vec<u8> {
    let is_vek = |der: &Vec<u8>| {
        X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
            let mut names = certificate.subject().iter_common_name();
            names.any(|name| name.as_str().is_ok_and(|name| VEK_NAMES.contains(&name)))
        })
    };
    let position = certificates.iter().position(is_vek).unwrap_or(0);
    certificates.into_iter().nth(position).unwrap_or_default()
}

fn of_none(refusals: Vec<Refusal>) -> Refusals {
    Refusals::unnamed(refusals)
}

fn report_data(text: &str) -> Result<ReportData, String> {
    let mut bytes = [0; 64];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| "expected 128 hexadecimal digits".to_owned())?;
    Ok(ReportData(bytes))
}

const VEK_NAMES: [&str; 2] = ["SEV-VCEK", "SEV-VLEK"];

const EXAMPLES: &str = "\
Examples:
  sealwire evidence verify --tee sev-snp --evidence report.bin --certs vcek.der
  sealwire evidence verify --tee sev-snp --evidence report.bin --certs vcek.pem --reference manifest.json
  sealwire evidence verify --tee tdx --evidence quote.bin --collateral collateral.json --at 2025-06-20T00:00:00Z";
