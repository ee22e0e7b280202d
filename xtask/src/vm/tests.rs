//! The tests that run on other kernels than this machine's.

use std::{
    collections::HashMap,
    env,
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Fetched, Kernel, Line, Machine, Outcome};
use crate::{
    packages,
    process::{self, PlatformLacks},
    release,
    skipped::{self, Log},
    tally::Tally,
    test::{PROGRAMS, Report},
    workspace,
};

/// A test program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suite {
    package: &'static str,
    /// The name of its file in `tests/`.
    name: &'static str,
    /// Only the tests with one of these in their names; all where there is none.
    filters: &'static [&'static str],
    /// Whether the older release of a line runs it too, which emulation makes dear.
    on_older: bool,
}

/// Of the testbed's properties those that depend on the kernel, and of each as much as emulation can
/// do in a minute.
const SUITES: [Suite; 3] = [
    Suite {
        package: "testbed",
        name: "bytes_exact",
        filters: &[],
        on_older: false,
    },
    Suite {
        package: "testbed",
        name: "leaks",
        filters: &[],
        on_older: true,
    },
    Suite {
        package: "testbed",
        name: "fail_closed",
        filters: &[],
        on_older: false,
    },
];

/// Runs them on the newest and an older release of the lines that the tests pass on.
pub(crate) fn matrix(log: &Log) -> Result<Report> {
    let mut report = Report::default();
    for line in MATRIX {
        for (kernel, is_older) in [(Kernel::newest(line), false), (Kernel::older(line), true)] {
            let suites: Vec<_> = SUITES
                .into_iter()
                .filter(|suite| suite.on_older || !is_older)
                .collect();
            match kernel.fetch() {
                Ok(fetched) => report += run_on(&fetched, &suites, log)?,
                Err(error) if error.is::<PlatformLacks>() => {
                    log.note(format!("every test on Linux {line}"), format!("{error:#}"))?;
                    report.tally += Tally::skipped(1);
                }
                Err(error) => {
                    report += Report::failed(format!("Linux {line}: {error:#}"));
                }
            }
        }
    }
    Ok(report)
}

/// 6.1 joins when the guard of devices is tested there.
const MATRIX: [Line; 1] = [Line::V6_12];

/// Runs tests of the testbed by the names of their files.
pub(super) fn run_by_name(kernel: &Fetched, names: &[String]) -> Result<u8> {
    let log = Log::open()?;
    if let Err(error) = packages::ensure(&PROGRAMS) {
        eprintln!("warning: {error:#}");
    }
    release::build(&[])?;
    let suites = names
        .iter()
        .map(|name| {
            let suite = SUITES.iter().find(|suite| suite.name == name.as_str());
            suite.copied().with_context(|| {
                let known: Vec<_> = SUITES.iter().map(|suite| suite.name).collect();
                format!(
                    "no test `{name}` runs there; there are {}",
                    known.join(", ")
                )
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let report = run_on(kernel, &suites, &log)?;
    println!("{}", report.tally);
    if report.tally.failed > 0 {
        bail!("{} tests failed", report.tally.failed);
    }
    Ok(0)
}

/// Runs test programs on a kernel, and counts what they say.
fn run_on(kernel: &Fetched, suites: &[Suite], log: &Log) -> Result<Report> {
    process::step(format!("tests on Linux {}", kernel.release));
    let programs = build(suites)?;
    let mut machine = Machine::new(kernel);
    machine.memory(MEMORY_MIB).timeout(TIMEOUT);
    for program in ["sealwire-agent", "sealwire", "sealwire-coordinator"] {
        let path = release::binary(program);
        machine.file(&path, &path);
    }
    for program in GUEST_PROGRAMS {
        machine.program(program);
    }
    let mut script = String::from("worst=0\n");
    for suite in suites {
        let program = programs
            .get(suite.name)
            .with_context(|| format!("cargo did not build the test {}", suite.name))?;
        machine.file(program, program);
        let _ = writeln!(
            script,
            "{} --test-threads 1 {} || worst=1",
            program.display(),
            suite.filters.join(" ")
        );
    }
    script += "cp /tmp/skipped.log /out/ 2>/dev/null\nexit $worst\n";
    let peer = workspace::target().join("debug/peer");
    let out = workspace::target().join(format!("vm/out-{}", kernel.release));
    machine
        .file(&peer, &peer)
        .env("SEALWIRE_BIN_DIR", release::directory())
        .env(skipped::VARIABLE, "/tmp/skipped.log")
        .out(&out);
    for variable in ["RUST_BACKTRACE"] {
        if let Some(value) = env::var_os(variable) {
            machine.env(variable, value);
        }
    }
    let mut report = Report::default();
    let outcome = machine.run_lines(&["sh", "-c", &script], |line| {
        println!("{line}");
        report.line(line);
    });
    let in_kernel = |name: &str| format!("Linux {}: {name}", kernel.release);
    for name in &mut report.failures {
        *name = in_kernel(name);
    }
    let skipped = std::fs::read_to_string(out.join("skipped.log")).unwrap_or_default();
    for line in skipped.lines() {
        let line = line.strip_prefix("SKIPPED ").unwrap_or(line);
        let (what, why) = line.split_once(": ").unwrap_or((line, ""));
        log.note(in_kernel(what), why)?;
    }
    report.tally = report.tally.with_self_skipped(skipped.lines().count());
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

/// Builds test programs, and tells where each is.
fn build(suites: &[Suite]) -> Result<HashMap<String, PathBuf>> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-run"]);
    for suite in suites {
        cargo.args(["--package", suite.package, "--test", suite.name]);
    }
    let mut child = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let stderr = child
        .stderr
        .take()
        .context("cargo without standard error")?;
    let mut programs = HashMap::new();
    for line in BufReader::new(stderr).lines() {
        let line = line.context("reading what cargo prints")?;
        match executable(&line) {
            Some((name, path)) => {
                programs.insert(name.to_owned(), workspace::root().join(path));
            }
            None => eprintln!("{line}"),
        }
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() {
        bail!("building the tests ended with {status}");
    }
    Ok(programs)
}

/// `  Executable tests/leaks.rs (target/debug/deps/leaks-0f)`, as cargo says where a test is.
fn executable(line: &str) -> Option<(&str, &Path)> {
    let (source, path) = line.trim().strip_prefix("Executable ")?.rsplit_once(" (")?;
    let name = Path::new(source).file_stem()?.to_str()?;
    Some((name, Path::new(path.strip_suffix(')')?)))
}

/// Unmodified programs that the tests run, where this machine has them.
const GUEST_PROGRAMS: [&str; 2] = ["curl", "openssl"];

const MEMORY_MIB: u32 = 3072;

const TIMEOUT: Duration = Duration::from_mins(20);

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn cargo_says_where_a_test_is() {
        assert_eq!(
            executable("  Executable tests/leaks.rs (target/debug/deps/leaks-0f1e)"),
            Some(("leaks", Path::new("target/debug/deps/leaks-0f1e")))
        );
        assert_eq!(executable("   Compiling testbed v0.1.0"), None);
    }
}
