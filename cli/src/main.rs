//! `sealwire`, the operator's binary. Each subcommand has a file or directory of its name.
//!
//! It moves no connections; that is `sealwire-agent`.

#![forbid(unsafe_code)]

mod args;
mod client;
mod evidence;
mod failure;
mod manifest;
mod pki;
mod recover;
mod set;
mod sign;
mod status;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;

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
    /// Write, check and compare manifests: what a deployment trusts.
    Manifest(manifest::Manifest),
    /// Make certificates for development and tests, without a Coordinator.
    Pki(pki::Pki),
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
        Some(Command::Manifest(manifest)) => manifest.run(),
        Some(Command::Pki(pki)) => pki.run(),
        None => Err(Failure::usage(NEXT_STEP)),
    };
    match outcome.and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

const NEXT_STEP: &str = "\
no command given

To try Sealwire on this machine, make a PKI and a certificate for each workload:
  sealwire pki init --dir pki --trust-domain mesh.local
  sealwire pki issue --dir pki --name web --out web-tls

All commands: sealwire --help";

const EXAMPLES: &str = "\
Examples:
  sealwire pki init --dir pki --trust-domain mesh.local
  sealwire pki issue --dir pki --name web --out web-tls
  sealwire-agent --cgroup /sys/fs/cgroup/web --tls-dir web-tls

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.";
