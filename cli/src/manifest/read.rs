use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ::manifest::Manifest;
use anyhow::Context;

use crate::failure::Failure;

/// Reads a manifest from a file, or from standard input for `-`. One that is not valid is wrong
/// usage, with every error in it.
pub(super) fn read(path: &Path) -> Result<Manifest, Failure> {
    let name = name(path);
    let bytes = if path == Path::new(STANDARD_INPUT) {
        read_bounded(io::stdin().lock())
    } else {
        File::open(path).and_then(read_bounded)
    };
    let bytes = bytes.with_context(|| format!("cannot read {name}"))?;
    Manifest::parse(&bytes).map_err(|errors| {
        let count = errors.count();
        let plural = if count == 1 { "" } else { "s" };
        let errors = errors.to_string().replace('\n', "\n  ");
        Failure::usage(format!(
            "{name} is not a valid manifest, {count} error{plural}:\n  {errors}"
        ))
    })
}

/// What to call the input in a message.
pub(super) fn name(path: &Path) -> String {
    if path == Path::new(STANDARD_INPUT) {
        return "standard input".to_owned();
    }
    path.display().to_string()
}

/// One byte more than a manifest may have is enough to see that it is too long.
fn read_bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(Manifest::MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

const STANDARD_INPUT: &str = "-";
