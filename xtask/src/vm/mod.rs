//! `cargo xtask vm`: a command under one of Debian's kernels, in a virtual machine.
//!
//! The machines that Sealwire is developed on have no kernel TLS, and one kernel each. Debian's cloud
//! kernels have it, boot under software emulation in seconds, and come in versions with and without
//! the faults that matter.

mod apt;
mod guest;
mod initramfs;
mod kernel_log;
mod kernels;
mod machine;
mod matrix;
mod modules;
mod run;
mod tests;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use apt::Fetched;
use kernels::{Age, Line};

use crate::skipped::Log;

pub(crate) use kernels::Kernel;
pub(crate) use machine::{Machine, Outcome};
pub(crate) use matrix::{Scope, matrix};

const MEMORY_MIB: u32 = 2048;
const CPUS: u32 = 2;
const TIMEOUT_SECONDS: u64 = 600;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// 6.1 or 6.12 for the newest of the line, or a release or version such as 6.1.170 (see --list)
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    kernel: String,

    /// The kernels that can be had, and stop
    #[arg(long)]
    list: bool,

    /// What `cargo xtask test` runs on other kernels than this machine's, and what it has no time for
    #[arg(long, conflicts_with_all = ["command", "tests", "package"])]
    matrix: bool,

    /// Memory, MiB
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB,
          value_parser = clap::value_parser!(u32).range(128..=16384))]
    memory: u32,

    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = CPUS,
          value_parser = clap::value_parser!(u32).range(1..=16))]
    cpus: u32,

    /// The machine is ended after so long
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_SECONDS)]
    timeout: u64,

    /// One CPU whose clock counts instructions, a nanosecond each
    #[arg(long, conflicts_with = "cpus")]
    icount: bool,

    /// Add to the kernel's command line, such as lockdown=integrity
    #[arg(long = "append", value_name = "ARGUMENT")]
    kernel_arguments: Vec<String>,

    /// Put a file there too, with the libraries that it needs; at the same path unless said
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    files: Vec<String>,

    /// Set a variable of the command's environment
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,

    /// Where the files go that the command leaves in /out, rather than to target/vm/KERNEL/out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    #[command(flatten)]
    tests: tests::Choice,

    /// The command, and what it takes; with --test or --package what the tests take, such as a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND",
          required_unless_present_any = ["list", "matrix", "tests", "package"])]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask vm -- uname -r
  cargo xtask vm --kernel 6.1 -- sh -c 'cat /proc/sys/net/ipv4/tcp_available_ulp'
  cargo xtask vm --kernel 6.1.170 --test leaks --test bytes_exact
  cargo xtask vm --test bytes_exact -- half_close
  cargo xtask vm --file target/release/sealwire-agent -- target/release/sealwire-agent --version

The exit code is the command's. A warning of the kernel, or a machine that does not come to its end,
makes it 1.";

/// Runs the command; the exit code is its.
pub(crate) fn run(options: &Options) -> Result<u8> {
    if options.list {
        kernels::list()?;
        return Ok(0);
    }
    if options.matrix {
        return tests::conclude(&matrix(Scope::Whole, &Log::open()?)?);
    }
    let kernel = Kernel::named(&options.kernel)?.fetch()?;
    let mut machine = Machine::new(&kernel);
    options.equip(&mut machine)?;
    if options.tests.any() {
        return tests::run(machine, &kernel, &options.tests, &options.command);
    }
    let Outcome { code, complaints } = machine.run(&options.command)?;
    if complaints.is_empty() {
        return Ok(code);
    }
    for line in complaints {
        eprintln!("kernel: {line}");
    }
    bail!(
        "the kernel complained; the command ended with {code}; see {}",
        run::kernel_log(&kernel.release).display()
    );
}

impl Options {
    fn equip(&self, machine: &mut Machine<'_>) -> Result<()> {
        machine
            .memory(self.memory)
            .cpus(self.cpus)
            .timeout(Duration::from_secs(self.timeout))
            .kernel_arguments(&self.kernel_arguments);
        if self.icount {
            machine.count_instructions();
        }
        for file in &self.files {
            let (host, guest) = match file.split_once(':') {
                Some((host, guest)) => (absolute(host)?, PathBuf::from(guest)),
                None => (absolute(file)?, absolute(file)?),
            };
            if !guest.is_absolute() {
                bail!("--file {file}: the path in the guest must begin with /");
            }
            machine.file(&host, &guest);
        }
        for variable in &self.environment {
            let (name, value) = variable
                .split_once('=')
                .filter(|(name, _)| is_identifier(name))
                .with_context(|| format!("--env {variable}: it is not NAME=VALUE"))?;
            machine.env(name, value);
        }
        if let Some(out) = &self.out {
            machine.out(out);
        }
        Ok(())
    }
}

fn absolute(path: &str) -> Result<PathBuf> {
    Path::new(path)
        .canonicalize()
        .with_context(|| format!("there is no {path}"))
}

/// What the shell takes as the name of a variable.
fn is_identifier(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(is_plain) && name.starts_with(|c: char| !c.is_ascii_digit())
}
