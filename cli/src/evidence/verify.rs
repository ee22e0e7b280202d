use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use attestation::{
    Code, Evidence, ReferenceValues, Refusal, Refusals, ReportData, SimulatedTee, Tee, Verifier,
    sev_snp, tdx,
};
use clap::Args;
use rustls_pki_types::UnixTime;
use serde_json::json;
use time::OffsetDateTime;

use super::chain::signing_certificates;
use super::files::Files;
use super::judgement::refused;
use crate::args::rfc3339;
use crate::failure::Failure;
use crate::files::read_start;

/// Verify a report or quote: exit code 0 accepted, 1 refused.
///
/// Without --reference it judges authenticity, freshness and debugging alone: that it is a genuine
/// TEE, not which program runs in it. A file that does not hold what it should is refused, too; one
/// that can't be read is exit code 2.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Verify {
    /// The TEE: sev-snp or tdx
    #[arg(long, value_name = "TEE")]
    tee: Tee,

    /// A raw report (1184 bytes) or quote, binary or hexadecimal
    #[arg(long, value_name = "FILE")]
    evidence: PathBuf,

    /// The VCEK or VLEK certificate, PEM or DER (SEV-SNP). AMD's roots are built in; where its
    /// chain is given too, in any order, it must be whole and hold
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

    /// Reference values: a manifest, or its `ReferenceValues` object alone, JSON
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,

    /// What the report data must be, 128 hexadecimal digits [default: not compared]
    #[arg(long, value_name = "HEX", value_parser = report_data)]
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
        let reference = self.reference()?;
        let verdict = match self.tee {
            Tee::SevSnp => self.sev_snp(reference.as_ref(), now)?,
            Tee::Tdx => self.tdx(reference.as_ref(), now)?,
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
        reference: Option<&ReferenceValues>,
        now: UnixTime,
    ) -> Result<Result<Accepted, Refusals>, Failure> {
        not_for(self.tee, "--collateral", self.collateral.is_some())?;
        let files = self.files();
        let report = files.evidence(&self.evidence)?;
        let crl = self.endorsement("crl", self.crl.as_deref())?;
        let veks = match signing_certificates(&files.certificates(&self.certs)?) {
            Ok(veks) => veks,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        let judge = |vek: Vec<u8>| {
            let evidence = sev_snp::Evidence {
                report: report.clone(),
                vek,
                crl: crl.clone(),
            };
            let report = sev_snp::authenticate(&evidence, &sev_snp::Roots::amd(), now)?;
            if reference.is_none() {
                report.check_baseline().map_err(Refusals::unnamed)?;
            }
            let fields = report.report().fields();
            let own = report.report().report_data;
            self.appraise(&Evidence::SevSnp(evidence), fields, own, reference, now)
        };
        let mut verdicts = veks.into_iter().map(judge);
        let first = verdicts.next().unwrap_or_else(|| judge(Vec::new()));
        Ok(first.or_else(|first| verdicts.find_map(Result::ok).ok_or(first)))
    }

    fn tdx(
        &self,
        reference: Option<&ReferenceValues>,
        now: UnixTime,
    ) -> Result<Result<Accepted, Refusals>, Failure> {
        not_for(self.tee, "--certs", !self.certs.is_empty())?;
        not_for(self.tee, "--crl", self.crl.is_some())?;
        let quote = self.files().evidence(&self.evidence)?;
        let collateral = self.endorsement("collateral", self.collateral.as_deref())?;
        let evidence = tdx::Evidence {
            quote,
            collateral: collateral.unwrap_or_default(),
        };
        let judge = || {
            let quote = tdx::authenticate(&evidence, &tdx::Root::intel(), now)?;
            if reference.is_none() {
                quote.check_baseline().map_err(Refusals::unnamed)?;
            }
            let own = ReportData(quote.quote().report().report_data);
            let fields = quote.fields();
            let evidence = Evidence::Tdx(evidence.clone());
            self.appraise(&evidence, fields, own, reference, now)
        };
        Ok(judge())
    }

    fn appraise(
        &self,
        evidence: &Evidence,
        fields: Vec<(&'static str, String)>,
        own: ReportData,
        reference: Option<&ReferenceValues>,
        now: UnixTime,
    ) -> Result<Accepted, Refusals> {
        let wanted = self.report_data.unwrap_or(own);
        let Some(reference) = reference else {
            if wanted != own {
                let (got, want) = (hex::encode(own.0), hex::encode(wanted.0));
                return Err(Refusal::new(Code::ReportData, "report_data", got, want).into());
            }
            return Ok(Accepted {
                reference: None,
                fields,
            });
        };
        let verifier = Verifier::new(SimulatedTee::Refused);
        let result = verifier.appraise(evidence, &wanted, reference, now)?;
        Ok(Accepted {
            reference: Some(result.reference().to_owned()),
            fields,
        })
    }

    fn files(&self) -> Files {
        Files { as_json: self.json }
    }

    fn endorsement(&self, field: &str, path: Option<&Path>) -> Result<Option<Vec<u8>>, Failure> {
        path.map(|path| self.files().read(field, path)).transpose()
    }

    fn reference(&self) -> Result<Option<ReferenceValues>, Failure> {
        let Some(path) = &self.reference else {
            return Ok(None);
        };
        let bytes = read_start(path, manifest::Manifest::MAX_BYTES + 1)?;
        manifest::reference_values_of(&bytes)
            .map(Some)
            .map_err(|errors| Failure::usage(format!("{} is not valid:\n{errors}", path.display())))
    }

    fn accepted(&self, accepted: &Accepted) -> Result<String, Failure> {
        let judged = match (&accepted.reference, self.report_data) {
            (None, Some(_)) => {
                "authenticity, freshness, debugging and the report data; which program runs is not \
                 judged without --reference"
            }
            (None, None) => {
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

/// An option that would be left out of the judgement without a word.
fn not_for(tee: Tee, option: &str, is_given: bool) -> Result<(), Failure> {
    if is_given {
        return Err(Failure::usage(format!("{option} is not for --tee {tee}")));
    }
    Ok(())
}

fn report_data(text: &str) -> Result<ReportData, String> {
    let mut bytes = [0; 64];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| "expected 128 hexadecimal digits".to_owned())?;
    Ok(ReportData(bytes))
}

const EXAMPLES: &str = "\
Examples:
  sealwire evidence verify --tee sev-snp --evidence report.bin --certs vcek.der
  sealwire evidence verify --tee sev-snp --evidence report.bin --certs vcek.pem --reference manifest.json
  sealwire evidence verify --tee tdx --evidence quote.bin --collateral collateral.json --at 2025-06-20T00:00:00Z";
