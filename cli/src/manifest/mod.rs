//! `sealwire manifest`: what a deployment trusts, before it is set.

mod check;
mod diff;
mod keys;
mod new;
mod read;
mod summary;

use clap::{Args, Subcommand};

use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Manifest {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    New(new::New),
    Check(check::Check),
    Diff(diff::Diff),
}

impl Manifest {
    pub(crate) fn run(self) -> Result<String, Failure> {
        match self.command {
            Command::New(new) => new.run(),
            Command::Check(check) => check.run(),
            Command::Diff(diff) => diff.run(),
        }
    }
}
