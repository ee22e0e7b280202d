//! `cargo xtask vm`: a command under one of Debian's kernels, in a virtual machine.
//!
//! The machines that Sealwire is developed on have no kernel TLS, and one kernel each. Debian's cloud
//! kernels have it, boot under software emulation in seconds, and come in versions with and without
//! the faults that matter.

mod guest;
mod initramfs;
mod kernel_log;
mod kernels;
mod machine;
mod modules;
mod tests;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use kernels::{Fetched, Line};

pub(crate) use kernels::Kernel;
pub(crate) use machine::{Machine, Outcome};
pub(crate) use tests::matrix;

/// Reasonable for a command by hand; `--memory` says otherwise.
const MEMORY_MIB: u32 = 2048;
const CPUS: u32 = 2;
const TIMEOUT_SECONDS: u64 = 600;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// 6.1 or 6.12 for the newest of the line, or a release such as 6.1.0-47 (see --list)
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    kernel: String,

    /// The kernels that can be had, and stop
    #[arg(long)]
    list: bool,

    /// Memory, MiB
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB, value_parser = clap::value_parser!(u32).range(128..=16384))]
    memory: u32,

    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = CPUS, value_parser = clap::value_parser!(u32).range(1..=16))]
    cpus: u32,

    /// The machine is ended after so long
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_SECONDS)]
    timeout: u64,

    /// One CPU whose clock counts instructions, a nanosecond each
    #[arg(long)]
    icount: bool,

    /// Put a file there too, with the libraries that it needs; at the same path unless said
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    files: Vec<String>,

    /// Where the files go that the command leaves in /out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Run these tests of the testbed there instead of a command
    #[arg(long = "test", value_name = "NAME", conflicts_with = "command")]
    tests: Vec<String>,

    /// The command, and what it takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND",
          required_unless_present_any = ["list", "tests"])]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask vm -- uname -r
  cargo xtask vm --kernel 6.1 -- sh -c 'cat /proc/sys/net/ipv4/tcp_available_ulp'
  cargo xtask vm --kernel 6.1.0-47 --test leaks --test bytes_exact
  cargo xtask vm --file target/release/sealwire-agent -- target/release/sealwire-agent --version

The exit code is the command's. A warning of the kernel makes it 1.";

/// Runs the command; the exit code is its.
pub(crate) fn run(options: &Options) -> Result<u8> {
    if options.list {
        kernels::list()?;
        return Ok(0);
    }
    let kernel = Kernel::named(&options.kernel)?.fetch()?;
    if !options.tests.is_empty() {
        return tests::run_by_name(&kernel, &options.tests);
    }
    let mut machine = Machine::new(&kernel);
    machine
        .memory(options.memory)
        .cpus(options.cpus)
        .timeout(Duration::from_secs(options.timeout));
    if options.icount {
        machine.count_instructions();
    }
    for file in &options.files {
        let (host, guest) = file.split_once(':').unwrap_or((file, file));
        let host = absolute(host)?;
        let guest = if guest == file.as_str() {
            host.clone()
        } else {
            PathBuf::from(guest)
        };
        if !guest.is_absolute() {
            bail!("--file {file}: the path in the guest must begin with /");
        }
        machine.file(&host, &guest);
    }
    if let Some(out) = &options.out {
        machine.out(out);
    }
    let Outcome { code, complaints } = machine.run(&options.command)?;
    if complaints.is_empty() {
        return Ok(code);
    }
    for line in complaints {
        eprintln!("kernel: {line}");
    }
    bail!("the kernel complained; the command ended with {code}");
}

fn absolute(path: &str) -> Result<PathBuf> {
    Path::new(path)
        .canonicalize()
        .with_context(|| format!("there is no {path}"))
}
