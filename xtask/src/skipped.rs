//! What could not be checked here: said loudly, and noted so that the closing line counts it.

use std::{
    env, fmt,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{self, Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::workspace;

/// The environment variable with the file to which whatever skips something appends one line:
/// the tests, which run in other processes, as well as xtask.
pub(crate) const VARIABLE: &str = "SEALWIRE_SKIP_LOG";

/// The skip log of this run.
pub(crate) struct Log(PathBuf);

impl Log {
    /// The log that the environment names, else a new one in the target directory.
    pub(crate) fn open() -> Result<Self> {
        if let Some(path) = env::var_os(VARIABLE) {
            // Absolute, because the tests run in other directories.
            return Ok(Self(
                path::absolute(path).context("resolving the skip log's path")?,
            ));
        }
        let target = workspace::target();
        let path = target.join("skipped.log");
        fs::create_dir_all(target)
            .and_then(|()| fs::write(&path, ""))
            .with_context(|| format!("starting the skip log {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Prints `SKIPPED what: why` and appends it.
    pub(crate) fn note(&self, what: impl fmt::Display, why: impl fmt::Display) -> Result<()> {
        let line = format!("SKIPPED {what}: {why}");
        eprintln!("{line}");
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.0)
            .and_then(|mut log| writeln!(log, "{line}"))
            .with_context(|| format!("writing the skip log {}", self.0.display()))
    }

    /// Every line so far; a log that nobody has written is empty.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}
