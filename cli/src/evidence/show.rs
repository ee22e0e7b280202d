use std::fmt::Write;
use std::path::PathBuf;

use attestation::{Tee, sev_snp, tdx};
use clap::Args;
use serde_json::{Map, Value};

use super::files::Files;
use super::judgement::refused;
use crate::failure::Failure;

/// Print every field of a report or quote. Verifies nothing.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Show {
    /// The TEE: sev-snp or tdx [default: what the file looks like]
    #[arg(long, value_name = "TEE")]
    tee: Option<Tee>,

    /// A raw report (1184 bytes) or quote, binary or hexadecimal
    #[arg(long, value_name = "FILE")]
    evidence: PathBuf,

    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn run(self) -> Result<String, Failure> {
        let files = Files { as_json: self.json };
        let bytes = files.evidence(&self.evidence)?;
        let tee = self.tee.unwrap_or_else(|| guess(&bytes));
        let fields = match tee {
            Tee::SevSnp => sev_snp::Report::parse(&bytes).map(|report| report.fields()),
            Tee::Tdx => tdx::Quote::parse(&bytes).map(|quote| quote.fields()),
            Tee::Simulated => {
                return Err(Failure::usage(
                    "the simulated TEE makes no files of evidence; see `sealwire evidence simulate`",
                ));
            }
        }
        .map_err(|refusal| refused(&refusal.into(), self.json))?;
        if self.json {
            let object: Map<_, _> = [("tee", tee.to_string())]
                .into_iter()
                .chain(fields)
                .map(|(name, value)| (name.to_owned(), Value::String(value)))
                .collect();
            return Ok(format!("{:#}\n", Value::Object(object)));
        }
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = format!("{tee} evidence, not verified\n");
        for (name, value) in fields {
            writeln!(text, "  {name:width$}  {value}")?;
        }
        Ok(text)
    }
}

/// A report begins with its version in four bytes, a quote in two and with the type of its key.
fn guess(bytes: &[u8]) -> Tee {
    match bytes {
        [_, _, 0, 0, ..] => Tee::SevSnp,
        _ => Tee::Tdx,
    }
}

const EXAMPLES: &str = "\
Examples:
  sealwire evidence show --evidence report.bin
  sealwire evidence show --tee tdx --evidence quote.hex --json";
