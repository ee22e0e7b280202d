//! `sealwire config`: the agent's configuration in force, and the schema of its file.

use agent_config::{in_force, json_schema};
use clap::{Args, Subcommand};

use crate::check::Source;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Print(Print),
    Schema(Schema),
}

/// Print what the agent would run with, as a file that means the same.
///
/// File and environment are combined as the agent combines them, and defaults are filled in.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
struct Print {
    #[command(flatten)]
    source: Source,

    /// Say of each value where it was given: place in the file, variable, or default
    #[arg(long)]
    origin: bool,
}

/// Print the JSON Schema of the agent's file, for editors that check TOML as it is written.
#[derive(Args)]
#[command(after_help = SCHEMA_EXAMPLES)]
struct Schema {}

impl Config {
    pub(crate) fn run(self) -> Result<String, Failure> {
        match self.command {
            Command::Print(Print { source, origin }) => source
                .read()
                .and_then(|(flags, environment, file)| in_force(&flags, &environment, file, origin))
                .map_err(Failure::usage),
            Command::Schema(Schema {}) => Ok(format!("{:#}\n", json_schema())),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  sealwire config print --origin /etc/sealwire/agent.toml
  SEALWIRE_CGROUP=/c CONTRAST_ADMIN_PORT=9464 sealwire config print --origin

Exit codes: 0 printed, 2 the agent would not take it.";

const SCHEMA_EXAMPLES: &str = "\
Examples:
  sealwire config schema";
