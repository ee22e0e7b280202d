//! `cargo xtask bench counted`: what a request costs on each route, in instructions, against the
//! figures that are committed.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;

use crate::{
    process::{self, PlatformLacks},
    release, skipped,
    vm::{Kernel, Machine, Outcome},
    workspace,
};

/// Count the instructions of a request and of a MiB on each route, in a virtual machine.
///
/// A request of 1 KiB and its answer may not cost 2 % more than in the committed figures.
#[derive(Parser)]
#[command(
    name = "cargo xtask bench counted",
    bin_name = "cargo xtask bench counted"
)]
struct Options {
    /// The kernel, as for `cargo xtask vm`
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    kernel: String,

    /// Write the figures, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Make these figures the ones to compare with; say why in the commit
    #[arg(long)]
    update: bool,

    /// Rounds, whose median counts
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// Takes the command line from `counted` on.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let options = Options::parse_from(arguments);
    let log = skipped::Log::open()?;
    measure(&options, &log)
}

/// As `cargo xtask bench counted`; skipped where the machine can't be had.
pub(crate) fn check(log: &skipped::Log) -> Result<()> {
    let options = Options::parse_from(["counted"]);
    match measure(&options, log) {
        Err(error) if error.is::<PlatformLacks>() => log.note("counted cost", format!("{error:#}")),
        measured => measured,
    }
}

fn measure(options: &Options, log: &skipped::Log) -> Result<()> {
    let kernel = Kernel::named(&options.kernel)?.fetch()?;
    release::build(&["testbed", "bench"])?;
    let out = workspace::target().join("vm/counted");
    let figures = out.join("counted.json");
    let bench = release::binary("bench");
    let mut machine = Machine::new(&kernel);
    machine
        .count_instructions()
        .timeout(TIMEOUT)
        .env("SEALWIRE_BIN_DIR", release::directory())
        .out(&out);
    for program in ["bench", "sealwire-agent", "sealwire"] {
        let path = release::binary(program);
        machine.file(&path, &path);
    }
    process::step(format!("counting instructions on Linux {}", kernel.release));
    let rounds = options.rounds.to_string();
    let outside = outside()?;
    let mut command: Vec<OsString> = vec![bench.clone().into()];
    command.extend(["counted", "measure", "--json", "/out/counted.json"].map(OsString::from));
    command.extend(["--rounds", &rounds, "--outside", &outside].map(OsString::from));
    let Outcome { code, complaints } = machine.run(&command)?;
    if code != 0 || !complaints.is_empty() {
        bail!("counting ended with {code}\n{}", complaints.join("\n"));
    }
    if let Some(file) = &options.json {
        copy(&figures, file)?;
    }
    let baseline = workspace::root().join(format!("bench/results/counted-{}.json", options.kernel));
    if options.update {
        return copy(&figures, &baseline);
    }
    compare(&bench, &figures, &baseline, log)
}

fn compare(bench: &Path, figures: &Path, baseline: &Path, log: &skipped::Log) -> Result<()> {
    if !baseline.exists() {
        return log.note(
            "counted cost",
            format!("there is no {}", baseline.display()),
        );
    }
    let mut command = Command::new(bench);
    command
        .args(["counted", "compare"])
        .args([figures, baseline]);
    let status = command.status().context("starting the comparison")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(NOT_COMPARABLE) => log.note(
            "counted cost",
            "the committed figures were made with another kernel, compiler or emulator",
        ),
        _ => bail!("a request has become dearer, see above"),
    }
}

/// What decides the figures beside the code and the guest's kernel.
fn outside() -> Result<String> {
    let rustc = process::stdout_of(Command::new("rustc").arg("--version"))?;
    let qemu = process::stdout_of(Command::new("qemu-system-x86_64").arg("--version"))?;
    let qemu = qemu.lines().next().unwrap_or_default().to_owned();
    Ok(format!("{rustc}; {qemu}"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("writing {}", to.display()))
}

const NOT_COMPARABLE: i32 = 3;

const TIMEOUT: Duration = Duration::from_mins(30);
