//! Shows Sealwire's main job on this machine: an unmodified nginx and curl in mutual TLS, attacked.
//!
//! Judges only what can be seen from outside: the programs, the wire, the agent's log and admin
//! interface. Whether every property holds is for the tests to say.

#![forbid(unsafe_code)]

mod abort;
mod acts;
mod agents;
mod curl;
mod machine;
mod nginx;
mod report;
mod requests;
mod screen;
mod stage;
mod traces;
mod wire;

use std::process::ExitCode;

use anyhow::Error;
use clap::Parser;

use crate::abort::{Abort, Interrupt};
use crate::report::Report;

/// Show mutual TLS around an unmodified nginx and curl, attacks included (root).
#[derive(Parser)]
#[command(
    name = "demo",
    after_help = "Exit codes: 0 every check holds, 1 one does not, 2 a program is missing, \
                  3 the machine lacks something, 130 interrupted."
)]
struct Options {
    /// Print one JSON object on standard output, and progress on standard error
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = Interrupt::listen().and_then(|interrupt| {
        let mut report = Report::new(options.json, interrupt.clone());
        let played = machine::require()
            .and_then(|()| acts::play(&mut report))
            .map_err(|error| interrupt.or(error));
        let ok = report.finish(played.as_ref().err());
        played.map(|()| ok)
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit_code(&error)
        }
    }
}

fn exit_code(error: &Error) -> ExitCode {
    match error.downcast_ref::<Abort>() {
        Some(Abort::ProgramsMissing(_)) => ExitCode::from(2),
        Some(Abort::PlatformLacks(_)) => ExitCode::from(3),
        Some(Abort::Interrupted) => ExitCode::from(130),
        None => ExitCode::FAILURE,
    }
}
