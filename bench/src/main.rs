//! Measures what Sealwire costs unmodified programs: bytes in bulk, requests, new connections,
//! memory for idle ones; each against the same programs without it, in alternating rounds. And what
//! agents cost the Coordinator.
//!
//! Measures no other proxy: what is known of rivals is quoted, see [`rivals`].
//!
//! ```text
//! cargo xtask bench all --json all.json --markdown all.md      # minutes, as root, machine idle
//! cargo xtask bench requests --quick
//! cargo xtask bench coordinator --markdown coordinator.md      # minutes
//! ```

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_precision_loss,
    reason = "counts become figures of three digits"
)]

mod bulk;
mod connections;
mod coordinator;
mod cost;
mod counted;
mod figure;
mod idle;
mod load;
mod machine;
mod nginx;
mod page;
mod readings;
mod report;
mod requests;
mod rivals;
mod run;
mod scenario;
mod site;
mod statistics;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "bench", about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    options: Option<run::Options>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrolments, rotation and watching agents at the Coordinator; not part of `all`
    Coordinator(coordinator::Options),
    /// The cost of a request and of a MiB on each route, in instructions; not part of `all`
    #[command(subcommand)]
    Counted(counted::Counted),
    /// The harness's own programs
    #[command(subcommand, hide = true)]
    Load(load::Load),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match (arguments.command, arguments.options) {
        (Some(Command::Load(load)), _) => load.run(),
        (Some(Command::Coordinator(options)), _) => coordinator::run(&options),
        (Some(Command::Counted(counted)), _) => counted.run(),
        (None, Some(options)) => run::run(&options),
        (None, None) => unreachable!("clap requires a suite"),
    }
}
