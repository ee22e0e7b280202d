//! `sealwire`, the operator's binary. Each subcommand has a file or directory of its name.
//!
//! It moves no connections; that is `sealwire-agent`.

#![forbid(unsafe_code)]

mod admin;
mod args;
mod check;
mod client;
mod colour;
mod completions;
mod config;
mod connections;
mod doctor;
mod evidence;
mod explain;
mod failure;
mod files;
mod man;
mod manifest;
mod next_step;
mod pki;
mod program;
mod recover;
mod run;
mod set;
mod sign;
mod status;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::next_step::next_step;

/// Wraps the TCP connections of unmodified programs in mutual TLS.
#[derive(Parser)]
#[command(name = "sealwire", version, after_help = EXAMPLES)]
struct Sealwire {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Set(set::Set),
    Verify(verify::Verify),
    Recover(recover::Recover),
    Sign(sign::Sign),
    Status(status::Status),
    Evidence(evidence::Evidence),
    Run(run::Run),
    #[command(hide = true)]
    EnterCgroup(run::Enter),
    Connections(connections::Connections),
    Explain(explain::Explain),
    Doctor(doctor::Doctor),
    Check(check::Check),
    /// Show the agent's configuration in force, and the schema of its file.
    Config(config::Config),
    /// Write, check and compare manifests: what a deployment trusts.
    Manifest(manifest::Manifest),
    /// Make certificates for development and tests, without a Coordinator.
    Pki(pki::Pki),
    Completions(completions::Completions),
    Man(man::Manual),
}

fn main() -> ExitCode {
    let Sealwire { command } = Sealwire::parse();
    let outcome = match command {
        Some(Command::Set(set)) => set.run(),
        Some(Command::Verify(verify)) => verify.run(),
        Some(Command::Recover(recover)) => recover.run(),
        Some(Command::Sign(sign)) => sign.run(),
        Some(Command::Status(status)) => status.run(),
        Some(Command::Evidence(evidence)) => evidence.run(),
        Some(Command::Run(run)) => run.run(),
        Some(Command::EnterCgroup(enter)) => enter.run(),
        Some(Command::Connections(connections)) => connections.run(),
        Some(Command::Explain(explain)) => explain.run(),
        Some(Command::Doctor(doctor)) => doctor.run(),
        Some(Command::Check(check)) => check.run(),
        Some(Command::Config(config)) => config.run(),
        Some(Command::Manifest(manifest)) => manifest.run(),
        Some(Command::Pki(pki)) => pki.run(),
        Some(Command::Completions(completions)) => completions.run(),
        Some(Command::Man(manual)) => manual.run(),
        None => Err(next_step()),
    };
    match outcome.and_then(|text| failure::print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

const EXAMPLES: &str = "\
Examples, with a Coordinator:
  sealwire manifest check manifest.json
  sealwire set -c coordinator:1313 -m manifest.json
  sealwire verify -c coordinator:1313 -m manifest.json
  sealwire status -c coordinator:1313 -m manifest.json

Without one:
  sealwire pki init --dir pki --trust-domain mesh.local
  sealwire pki issue --dir pki --name web --out web-tls
  sealwire run --name web --tls-dir web-tls -- nginx

Before an agent starts:
  sealwire doctor
  sealwire check /etc/sealwire/agent.toml

While it runs:
  sealwire connections --admin-port 9464 --watch
  sealwire explain --admin-port 9464 r17

Exit codes: 0 done, 1 failed or refused, 2 wrong usage or configuration.";

#[cfg(test)]
mod tests;
