//! `sealwire evidence`: what a TEE says of itself, for people.

mod chain;
mod files;
mod judgement;
mod show;
mod simulate;
mod verify;

use clap::{Args, Subcommand};

use crate::failure::Failure;

/// Look at evidence of a TEE, verify it, or simulate a TEE for tests.
#[derive(Args)]
pub(crate) struct Evidence {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Show(show::Show),
    Verify(verify::Verify),
    Simulate(simulate::Simulate),
    PlatformKey(simulate::PlatformKey),
}

impl Evidence {
    pub(crate) fn run(self) -> Result<String, Failure> {
        match self.command {
            Command::Show(show) => show.run(),
            Command::Verify(verify) => verify.run(),
            Command::Simulate(simulate) => simulate.run(),
            Command::PlatformKey(platform_key) => platform_key.run(),
        }
    }
}
