//! A wall clock of a program's own, which jumps while the program runs: Debian's libfaketime.
//!
//! The kernel and the clock that only goes on are not fooled, as by a real clock that is set.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::program::HostCommand;

/// The wall clock of the programs that were started with it.
#[derive(Clone, Debug)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// One that is right, set by way of the file `name` in `directory`.
    pub fn new(directory: &Path, name: &str) -> Result<Self> {
        let clock = Self {
            library: library().context("faketime is not installed")?,
            offset: directory.join(name),
        };
        clock.right()?;
        Ok(clock)
    }

    /// Sets it ahead by this much.
    pub fn ahead(&self, by: Duration) -> Result<()> {
        self.set(&format!("+{}", by.as_secs()))
    }

    /// Sets it back by this much.
    pub fn behind(&self, by: Duration) -> Result<()> {
        self.set(&format!("-{}", by.as_secs()))
    }

    /// Sets it right.
    pub fn right(&self) -> Result<()> {
        self.set("+0")
    }

    /// A program is never to see half an offset.
    fn set(&self, offset: &str) -> Result<()> {
        let new = self.offset.with_extension("new");
        fs::write(&new, format!("{offset}\n"))?;
        fs::rename(&new, &self.offset)?;
        Ok(())
    }

    /// The program, with this clock.
    #[must_use]
    pub fn give(&self, command: HostCommand) -> HostCommand {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1")
    }
}

/// Why a test that needs such a clock can't run here.
pub fn lacking() -> Option<&'static str> {
    library().is_none().then_some("faketime is not installed")
}

fn library() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?.flatten();
    directories
        .map(|directory| directory.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
}

/// A day.
pub const DAY: Duration = Duration::from_hours(24);
