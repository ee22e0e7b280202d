//! Sealwire's programs, as their command lines describe them.

use clap::{CommandFactory as _, ValueEnum};

use crate::Sealwire;

/// A program whose command line is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Program {
    /// The operator's tool
    Sealwire,
    /// Wraps connections
    #[value(name = "sealwire-agent")]
    Agent,
    /// Issues certificates
    #[value(name = "sealwire-coordinator")]
    Coordinator,
}

impl Program {
    /// Its commands and options.
    pub(crate) fn command(self) -> clap::Command {
        match self {
            Self::Sealwire => Sealwire::command(),
            Self::Agent => agent_config::flags::Flags::command(),
            Self::Coordinator => coordinator::flags::Flags::command(),
        }
    }
}
