//! Why the demonstration ends before its end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What is no fault of Sealwire, and has an exit code of its own.
#[derive(Debug)]
pub(crate) enum Abort {
    /// Somebody has had enough.
    Interrupted,
    /// Programs that are not installed.
    ProgramsMissing(String),
    /// What the machine or its kernel does not have, or does not allow.
    PlatformLacks(String),
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted; everything is cleaned up"),
            Self::ProgramsMissing(what) | Self::PlatformLacks(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Abort {}

/// Whether Ctrl-C was pressed, or the terminal or a service manager asked for the end.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes these signals from now on, so that guards still clean up after one.
    pub(crate) fn listen() -> Result<Self> {
        let seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&seen))
                .context("could not listen for signals")?;
        }
        Ok(Self(seen))
    }

    /// The interruption if there was one, as it reaches the programs too and they fail of it;
    /// otherwise the error.
    pub(crate) fn or(&self, error: Error) -> Error {
        self.check().err().unwrap_or(error)
    }

    /// Fails once there was a signal.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Abort::Interrupted.into());
        }
        Ok(())
    }
}
