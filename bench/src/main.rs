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

use run::Measure;
use scenario::Suite;

#[derive(Debug, Parser)]
#[command(name = "bench", about, subcommand_value_name = "SUITE")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// iperf3 with one and eight streams, up and down
    Bulk(Measure),
    /// wrk against nginx with a page of 1 KiB, on 1, 16 and 128 connections that stay open
    Requests(Measure),
    /// New connections a second with 16 and 64 clients, and how long one takes
    Connections(Measure),
    /// Memory of the agents for 10,000 idle connections
    Idle(Measure),
    /// All of these
    All(Measure),
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
    match Arguments::parse().command {
        Command::Bulk(measure) => run::run(Suite::Bulk, &measure),
        Command::Requests(measure) => run::run(Suite::Requests, &measure),
        Command::Connections(measure) => run::run(Suite::Connections, &measure),
        Command::Idle(measure) => run::run(Suite::Idle, &measure),
        Command::All(measure) => run::run(Suite::All, &measure),
        Command::Coordinator(options) => coordinator::run(&options),
        Command::Counted(counted) => counted.run(),
        Command::Load(load) => load.run(),
    }
}
