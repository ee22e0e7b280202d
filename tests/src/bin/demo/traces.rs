//! What the demonstration leaves behind: nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use nix::unistd::Pid;

/// What of the demonstration can be found on the machine while it runs.
pub(crate) struct Traces(Vec<PathBuf>);

impl Traces {
    /// These paths and processes; fails if one is not there now, as it then could not be missed.
    pub(crate) fn find(
        paths: impl IntoIterator<Item = PathBuf>,
        processes: impl IntoIterator<Item = Pid>,
    ) -> Result<Self> {
        let processes = processes
            .into_iter()
            .map(|pid| PathBuf::from(format!("/proc/{pid}")));
        let paths: Vec<_> = paths.into_iter().chain(processes).collect();
        for path in &paths {
            ensure!(path.exists(), "{} does not exist", path.display());
        }
        Ok(Self(paths))
    }

    /// Fails if one of them is still there; how many are gone.
    pub(crate) fn assert_gone(&self) -> Result<usize> {
        let left: Vec<_> = self
            .0
            .iter()
            .filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect();
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        Ok(self.0.len())
    }
}

/// Where the agent keeps its pins.
pub(crate) fn pins(instance: &str) -> PathBuf {
    Path::new(PINS).join(instance)
}

/// The file that the agent locks.
pub(crate) fn lock(instance: &str) -> PathBuf {
    Path::new(LOCKS).join(format!("{instance}.lock"))
}

/// The agent's directories, which are on every machine that has ever had an agent. Dropping this
/// removes those that were not there before.
pub(crate) struct AgentDirectories {
    new: Vec<&'static Path>,
}

impl AgentDirectories {
    /// Remembers which are there.
    pub(crate) fn remember() -> Self {
        let directories = [PINS, LOCKS].map(Path::new);
        Self {
            new: directories
                .into_iter()
                .filter(|directory| !directory.exists())
                .collect(),
        }
    }
}

impl Drop for AgentDirectories {
    fn drop(&mut self) {
        for directory in &self.new {
            let _ = fs::remove_dir(directory); // another agent may use it by now
        }
    }
}

const PINS: &str = "/sys/fs/bpf/sealwire";
const LOCKS: &str = "/run/sealwire";
