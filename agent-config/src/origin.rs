//! Where an agent's configuration comes from, to be read again.

use std::path::PathBuf;

use crate::flags::{Environment, Flags};
use crate::layers::{CONFIG, Layers};
use crate::{Config, ConfigError};

/// The command line and the environment of a process; they name the file, if there is one.
#[derive(Clone, Debug)]
pub struct ConfigOrigin {
    flags: Flags,
    environment: Environment,
}

impl ConfigOrigin {
    /// What this process was started with.
    pub fn new(flags: Flags, environment: Environment) -> Self {
        Self { flags, environment }
    }

    /// The configuration as it is now, with what it names looked for on the machine.
    ///
    /// # Errors
    /// Every mistake at once; those of the machine only where there is no other.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let config = Config::load(&self.flags, &self.environment)?;
        config.check_system()?;
        Ok(config)
    }

    /// The file; `None` where everything comes from the command line and the environment.
    pub fn file(&self) -> Option<PathBuf> {
        let Self { flags, environment } = self;
        let path = Layers { flags, environment }.option(CONFIG)?;
        Some(PathBuf::from(path.value))
    }
}
