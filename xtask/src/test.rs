//! `cargo xtask test`: the unit tests of every crate, then the properties on the testbed.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{kernel, packages, process, release, skipped, tally::Tally, vm, workspace};

#[derive(Args, Default)]
pub(crate) struct Options {
    /// Run only the tests whose names contain this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let log = skipped::Log::open()?;
    let tally = tally(options, &log)?;
    println!("{tally}");
    if tally.failed > 0 {
        bail!("{} tests failed", tally.failed);
    }
    Ok(())
}

/// Runs everything, prints the names of what failed, and counts.
pub(crate) fn tally(options: &Options, log: &skipped::Log) -> Result<Tally> {
    let noted = log.lines().len();
    let mut report = units(options, log)?;
    let lacking = kernel::lacking();
    if lacking.is_empty() {
        report += on_testbed(options, log)?;
    } else {
        log.note("every test on the testbed", lacking.join("; "))?;
        report.tally += Tally::skipped(1);
    }
    // Emulation is for whole runs: a filter is somebody's haste.
    if options.filter.is_none() {
        report += vm::matrix(vm::Scope::Core, log)?;
    }
    for name in &report.failures {
        println!("FAILED {name}");
    }
    for line in log.lines().iter().skip(noted) {
        println!("{line}");
    }
    Ok(report.tally)
}

/// What needs no namespaces: every crate but the testbed.
fn units(options: &Options, log: &skipped::Log) -> Result<Report> {
    packages::ensure_to_build()?;
    if let Err(error) = packages::ensure(&SERVICES) {
        eprintln!("warning: {error:#}");
    }
    process::step("unit tests");
    let mut cargo = workspace::cargo();
    cargo.args([
        "test",
        "--workspace",
        "--exclude",
        "testbed",
        "--no-fail-fast",
    ]);
    libtest(cargo, options, &[], log)
}

/// The properties, with release binaries and the unmodified programs that they run.
fn on_testbed(options: &Options, log: &skipped::Log) -> Result<Report> {
    if let Err(error) = packages::ensure(&PROGRAMS) {
        // Each test that misses its program skips itself, by name.
        eprintln!("warning: {error:#}");
    }
    match release::build(&[]) {
        Ok(()) => properties(options, log),
        Err(error) => Ok(Report::failed(format!("release build: {error:#}"))),
    }
}

/// The testbed's tests, against the release binaries.
fn properties(options: &Options, log: &skipped::Log) -> Result<Report> {
    process::step("properties, on the testbed");
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--package", "testbed", "--no-fail-fast"]);
    cargo.env("SEALWIRE_BIN_DIR", release::directory());
    libtest(cargo, options, &["--test-threads", TESTBED_THREADS], log)
}

/// Runs `cargo test`, passing its output on while counting.
fn libtest(
    mut cargo: Command,
    options: &Options,
    harness: &[&str],
    log: &skipped::Log,
) -> Result<Report> {
    cargo.arg("--").args(harness).args(&options.filter);
    cargo
        .env(skipped::VARIABLE, log.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let noted = log.lines().len();
    let mut child = cargo.spawn().context("starting cargo test")?;
    let stdout = child
        .stdout
        .take()
        .context("cargo test without standard output")?;
    let mut report = Report::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("reading what cargo test prints")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        report.line(&line);
    }
    report.tally = report.tally.with_self_skipped(log.lines().len() - noted);
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() && report.tally.failed == 0 {
        // A crate that doesn't compile, or a test process that died, prints no count.
        report += Report::failed(format!("cargo test, which ended with {status}"));
    }
    Ok(report)
}

/// What tests came to.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) tally: Tally,
    /// Names of those that failed.
    pub(crate) failures: Vec<String>,
    /// Test programs that had no test to run.
    pub(crate) idle: usize,
}

impl Report {
    /// One success that is no test's.
    pub(crate) fn passed() -> Self {
        Self {
            tally: Tally::PASSED,
            ..Self::default()
        }
    }

    /// One failure that is no test's.
    pub(crate) fn failed(what: String) -> Self {
        Self {
            tally: Tally::FAILED,
            failures: vec![what],
            idle: 0,
        }
    }

    /// Takes a line of libtest's output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(tally) = Tally::of_libtest(line) {
            self.idle += usize::from(tally == Tally::default());
            self.tally += tally;
        }
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        let Self {
            tally,
            failures,
            idle,
        } = other;
        self.tally += tally;
        self.failures.extend(failures);
        self.idle += idle;
    }
}

/// What tests of single crates run: a store, a hardware module's stand-in, and who reads completions
/// and manual pages. Each test that misses its program skips itself, by name.
const SERVICES: [&str; 9] = [
    "etcd-server",
    "fish",
    "gnutls-bin",
    "groff-base",
    "man-db",
    "opensc",
    "openssl",
    "softhsm2",
    "zsh",
];

/// The unmodified programs that the tests run through Sealwire, and what they run beside it.
pub(crate) const PROGRAMS: [&str; 16] = [
    "nginx-light",
    "etcd-server",
    "faketime",
    "curl",
    "iproute2",
    "iperf3",
    "redis-server",
    "redis-tools",
    "postgresql",
    "openssl",
    "gnutls-bin",
    "nodejs",
    "chromium",
    "prometheus",
    "procps",
    "systemd",
];

/// Each test has an agent and programs of its own; more at once would time out on two cores.
const TESTBED_THREADS: &str = "2";
