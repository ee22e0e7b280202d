//! `sealwire pki`: the PKI on disk, for development and tests.

mod init;
mod issue;

use clap::{Args, Subcommand};

use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Pki {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Issue(issue::Issue),
}

impl Pki {
    pub(crate) fn run(self) -> Result<String, Failure> {
        match self.command {
            Command::Init(init) => init.run(),
            Command::Issue(issue) => issue.run(),
        }
    }
}
