use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;
use crate::manifest::{read, summary};

/// Say what is wrong with a manifest, or what it trusts.
///
/// Gives every error at once, each with its path, what was found and what was wanted. The same
/// checks are made when a manifest is set.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Check {
    /// The manifest, or - for standard input
    #[arg(value_name = "FILE")]
    manifest: PathBuf,
}

impl Check {
    pub(super) fn run(self) -> Result<String, Failure> {
        let manifest = read::read(&self.manifest)?;
        let name = read::name(&self.manifest);
        Ok(format!("{name} is valid\n{}", summary::summary(&manifest)?))
    }
}

const EXAMPLES: &str = "\
Examples:
  sealwire manifest check manifest.json
  jq '.UpdateQuorum = 2' manifest.json | sealwire manifest check -

Exit codes: 0 valid, 1 cannot be read, 2 not valid.";
