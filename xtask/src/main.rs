//! Developer commands of Sealwire: install what is needed, build, run.
//! Holds no logic of the product and imports no other member of the workspace.
#![forbid(unsafe_code)]

mod bench;
mod cargo_tool;
mod ci;
mod counted;
mod demo;
mod ebpf;
mod fuzz;
mod kernel;
mod musl;
mod packages;
mod process;
mod release;
mod skipped;
mod tally;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::process::{PlatformLacks, WrongUsage};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Ebpf(options) => ebpf::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Ci(options) => ci::run(&options),
        // Its exit code is that of the command that it runs.
        Task::Vm(options) => match vm::run(&options) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit_code(&error)
        }
    }
}

/// Builds, tests and shows Sealwire. Every command installs what it lacks.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Start with `cargo xtask demo`, as root. \
                  `cargo xtask COMMAND --help` says more.\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the machine lacks something."
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show mutual TLS around an unmodified nginx and curl, attacks included (root)
    Demo(demo::Options),
    /// Run every test: units, then the properties on the testbed (root)
    Test(test::Options),
    /// Build the eBPF object that the agent embeds; only for work on ebpf/
    Ebpf(ebpf::Options),
    /// Measure (root)
    Bench(bench::Options),
    /// Run a command under one of Debian's kernels, in a virtual machine
    Vm(vm::Options),
    /// Run the fuzz targets: every parser of bytes that others can choose
    Fuzz(fuzz::Options),
    /// Check everything that must hold before a change is taken (root)
    Ci(ci::Options),
}

/// 2 where something was asked for that does not exist, as clap does by itself; 3 where the machine
/// lacks something; else 1.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<WrongUsage>() {
        ExitCode::from(2)
    } else if error.is::<PlatformLacks>() {
        ExitCode::from(3)
    } else {
        ExitCode::FAILURE
    }
}
