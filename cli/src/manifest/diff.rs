use std::fmt::Write;
use std::path::PathBuf;

use ::manifest::Manifest;
use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::manifest::read::read;

/// Say what a new manifest changes, and what follows from it.
///
/// Order, spacing and defaults written out are no changes in meaning. Both manifests must be valid.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Diff {
    /// The manifest in force, or - for standard input
    #[arg(value_name = "OLD")]
    old: PathBuf,

    /// The manifest that is to be set, or - for standard input
    #[arg(value_name = "NEW")]
    new: PathBuf,

    /// Print JSON: the two hashes, and of each change its kind, subject and text
    #[arg(long)]
    json: bool,
}

impl Diff {
    pub(super) fn run(self) -> Result<String, Failure> {
        let (old, new) = (read(&self.old)?, read(&self.new)?);
        if self.json {
            return as_json(&old, &new);
        }
        in_words(&old, &new)
    }
}

fn in_words(old: &Manifest, new: &Manifest) -> Result<String, Failure> {
    let changes = ::manifest::diff(old, new);
    let mut text = format!("manifest {} -> {}\n", old.hash(), new.hash());
    for change in &changes {
        writeln!(text, "  {change}")?;
    }
    if old == new {
        writeln!(text, "  no change: both are the same, byte for byte")?;
    } else if changes.is_empty() {
        writeln!(
            text,
            "  no change in meaning; but the bytes differ, so that setting it renews the mesh CA"
        )?;
    }
    Ok(text)
}

fn as_json(old: &Manifest, new: &Manifest) -> Result<String, Failure> {
    let changes: Vec<_> = ::manifest::diff(old, new)
        .iter()
        .map(|change| {
            json!({
                "kind": change.kind(),
                "subject": change.subject(),
                "text": change.to_string(),
            })
        })
        .collect();
    let document = json!({
        "old": old.hash().to_string(),
        "new": new.hash().to_string(),
        "changes": changes,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

const EXAMPLES: &str = "\
Examples:
  sealwire manifest diff verify/manifest.3.json manifest.json
  sealwire manifest diff --json old.json new.json | jq -r '.changes[].kind'";
