//! Test programs on other kernels than this machine's.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{Fetched, Machine, Outcome, guest};
use crate::{
    packages, process, release,
    skipped::{self, Log},
    test::{PROGRAMS, Report},
    workspace,
};

/// Which tests to run, said by hand.
#[derive(Args)]
pub(super) struct Choice {
    /// Run these tests there instead of a command, and count them; the names are those in tests/tests
    #[arg(long = "test", value_name = "NAME")]
    tests: Vec<String>,

    /// The package that the tests are of, rather than the testbed; alone, all of its tests
    #[arg(long, value_name = "PACKAGE")]
    package: Option<String>,
}

impl Choice {
    pub(super) fn any(&self) -> bool {
        !self.tests.is_empty() || self.package.is_some()
    }
}

/// Runs tests by the names of their files; all of them get the same arguments.
pub(super) fn run(
    machine: Machine<'_>,
    kernel: &Fetched,
    choice: &Choice,
    arguments: &[OsString],
) -> Result<u8> {
    let log = Log::open()?;
    let package = choice.package.as_deref().unwrap_or(TESTBED);
    if package == TESTBED {
        prepare()?;
    }
    let mut targets = Vec::new();
    for test in &choice.tests {
        targets.extend(["--test", test]);
    }
    let runs: Vec<_> = build(package, &targets)?
        .into_iter()
        .map(|program| TestRun {
            program: program.path,
            environment: Vec::new(),
            arguments: arguments.to_vec(),
            around: None,
        })
        .collect();
    conclude(&run_on(machine, kernel, &runs, &log)?)
}

/// The exit code that tests by hand end with.
pub(super) fn conclude(report: &Report) -> Result<u8> {
    println!("{}", report.tally);
    if report.tally.failed > 0 {
        bail!("failed: {}", report.failures.join(", "));
    }
    Ok(0)
}

/// What the testbed's tests run besides themselves.
pub(super) fn prepare() -> Result<()> {
    if let Err(error) = packages::ensure(&PROGRAMS) {
        // Each test that misses its program skips itself, by name.
        eprintln!("warning: {error:#}");
    }
    release::build(&[])
}

/// A test program, and what it is called with.
pub(super) struct TestRun {
    pub(super) program: PathBuf,
    /// Variables, as `NAME=VALUE`.
    pub(super) environment: Vec<&'static str>,
    pub(super) arguments: Vec<OsString>,
    /// Lines of the shell that make the surroundings, and unmake them.
    pub(super) around: Option<[&'static str; 2]>,
}

/// Runs test programs in a machine, and counts what they say.
pub(super) fn run_on(
    mut machine: Machine<'_>,
    kernel: &Fetched,
    runs: &[TestRun],
    log: &Log,
) -> Result<Report> {
    process::step(format!("tests on Linux {}", kernel.release));
    for binary in BINARIES.map(release::binary) {
        if binary.exists() {
            machine.file(&binary, &binary);
        }
    }
    // Where the testbed looks for it.
    let peer = workspace::target().join("debug/peer");
    if peer.exists() {
        machine.file(&peer, &peer);
    }
    for program in GUEST_PROGRAMS {
        machine.program(program);
    }
    machine
        .env("SEALWIRE_BIN_DIR", release::directory())
        .env("RUST_TEST_THREADS", "1")
        .env(skipped::VARIABLE, SKIP_LOG);
    if let Some(value) = env::var_os("RUST_BACKTRACE") {
        machine.env("RUST_BACKTRACE", value);
    }
    for TestRun { program, .. } in runs {
        machine.file(program, program);
    }
    let mut report = Report::default();
    let mut skipped = Vec::new();
    let outcome = machine.run_lines(
        &[OsStr::new("sh"), OsStr::new("-c"), &script(runs)],
        |line| {
            if let Some(line) = line.strip_prefix(SKIP_MARK) {
                skipped.push(line.to_owned());
            } else {
                println!("{}: {line}", kernel.release);
                report.line(line);
            }
        },
    );
    let in_kernel = |what: &str| format!("Linux {}: {what}", kernel.release);
    for name in &mut report.failures {
        *name = in_kernel(name);
    }
    report.tally = report.tally.with_self_skipped(skipped.len());
    for line in skipped {
        let (what, why) = line
            .split_once(": ")
            .unwrap_or((&line, "it does not say why"));
        log.note(in_kernel(what), why)?;
    }
    match outcome {
        Ok(Outcome { code, complaints }) => {
            for line in &complaints {
                eprintln!("kernel: {line}");
            }
            if !complaints.is_empty() {
                report += Report::failed(in_kernel("the kernel complained"));
            } else if code != 0 && report.tally.failed == 0 {
                report += Report::failed(in_kernel("a test program died"));
            }
        }
        Err(error) => report += Report::failed(in_kernel(&format!("{error:#}"))),
    }
    Ok(report)
}

/// One program after the other, whatever becomes of those before it; then what skipped itself.
fn script(runs: &[TestRun]) -> OsString {
    let mut script = OsString::from("worst=0\n");
    for run in runs {
        let environment = run.environment.iter().map(OsStr::new);
        let words = [OsStr::new("env")]
            .into_iter()
            .chain(environment)
            .chain([run.program.as_os_str()])
            .chain(run.arguments.iter().map(|word| &**word));
        let [before, after] = run.around.unwrap_or(["true"; 2]);
        for line in [OsString::from(before), guest::line_of(words), after.into()] {
            script.push(line);
            script.push(" || worst=1\n");
        }
    }
    script.push(format!(
        "sed 's/^SKIPPED /{SKIP_MARK}/' {SKIP_LOG} 2>/dev/null\nexit $worst\n"
    ));
    script
}

/// A test program that is built.
pub(super) struct TestProgram {
    /// The name of its file without the extension.
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// Builds those of a package's tests that `targets` name as cargo takes them (`--lib`, `--test
/// leaks`), or all.
pub(super) fn build(package: &str, targets: &[&str]) -> Result<Vec<TestProgram>> {
    packages::ensure_to_build()?;
    let mut cargo = workspace::cargo();
    cargo
        .args(["test", "--no-run", "--package", package])
        .args(targets);
    let mut child = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let stderr = child
        .stderr
        .take()
        .context("cargo test without standard error")?;
    let mut programs = Vec::new();
    for line in BufReader::new(stderr).lines() {
        let line = line.context("reading what cargo test prints")?;
        match executable(&line) {
            Some((name, path)) => programs.push(TestProgram {
                name: name.to_owned(),
                path: workspace::root().join(path),
            }),
            None => eprintln!("{line}"),
        }
    }
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() {
        bail!("building the tests of {package} ended with {status}");
    }
    Ok(programs)
}

/// `  Executable tests/leaks.rs (target/debug/deps/leaks-0f)`, as cargo says where a test is.
fn executable(line: &str) -> Option<(&str, &Path)> {
    let (source, path) = line.trim().strip_prefix("Executable ")?.rsplit_once(" (")?;
    let name = Path::new(source).file_stem()?.to_str()?;
    Some((name, Path::new(path.strip_suffix(')')?)))
}

pub(super) const TESTBED: &str = "testbed";

/// What is tested.
const BINARIES: [&str; 3] = ["sealwire-agent", "sealwire", "sealwire-coordinator"];

/// Unmodified programs that the tests run, where this machine has them.
const GUEST_PROGRAMS: [&str; 6] = [
    "curl",
    "gnutls-cli",
    "gnutls-serv",
    "openssl",
    "setpriv",
    "unshare",
];

const SKIP_LOG: &str = "/tmp/skipped.log";

/// Begins the lines with which the skip log comes out.
const SKIP_MARK: &str = "SKIPPED-IN-THE-GUEST ";

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn cargo_says_where_a_test_is() {
        assert_eq!(
            executable("  Executable tests/leaks.rs (target/debug/deps/leaks-0f1e)"),
            Some(("leaks", Path::new("target/debug/deps/leaks-0f1e")))
        );
        assert_eq!(
            executable("  Executable unittests src/lib.rs (target/debug/deps/kernel_tls-7a)"),
            Some(("lib", Path::new("target/debug/deps/kernel_tls-7a")))
        );
        assert_eq!(executable("   Compiling testbed v0.1.0"), None);
    }

    #[test]
    fn every_program_runs_and_the_worst_counts() {
        let run = |program: &str, environment, arguments: &[&str], around| TestRun {
            program: program.into(),
            environment,
            arguments: arguments.iter().map(OsString::from).collect(),
            around,
        };
        let script = script(&[
            run("/t/leaks", vec![], &["a b", "--exact"], None),
            run("/t/bytes", vec!["A=b"], &[], Some(["before", "after"])),
        ]);
        assert_eq!(
            script.to_str().unwrap(),
            "worst=0\n\
             true || worst=1\n\
             'env' '/t/leaks' 'a b' '--exact' || worst=1\n\
             true || worst=1\n\
             before || worst=1\n\
             'env' 'A=b' '/t/bytes' || worst=1\n\
             after || worst=1\n\
             sed 's/^SKIPPED /SKIPPED-IN-THE-GUEST /' /tmp/skipped.log 2>/dev/null\n\
             exit $worst\n"
        );
    }
}
