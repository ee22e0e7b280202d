//! Which tests run on which kernel in `cargo xtask test`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Age, Fetched, Kernel, Line, Machine, Outcome, run,
    tests::{self, TestRun},
};
use crate::{
    process::{self, PlatformLacks},
    skipped::Log,
    tally::Tally,
    test::Report,
};

/// Tests of one program, and where they run. Emulation makes everything ten to twenty times slower:
/// only what depends on the kernel is here, and of that what is done in a few minutes.
struct Suite {
    package: &'static str,
    /// The name of its file in `tests`, or `lib` for a crate's own.
    target: &'static str,
    /// Only the tests with one of these in their names; all where there is none.
    filters: &'static [&'static str],
    /// A variable, as `NAME=VALUE`.
    environment: Option<&'static str>,
    on: On,
}

/// The kernels that a suite runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// All: it says which faults a kernel has, or must hold in spite of them.
    Every,
    /// The newest of each line: what the older ones do differently is not in it.
    Newest,
}

const SUITES: [Suite; 9] = [
    // What the kernel's TLS does, and what the agent's probe makes of it.
    Suite {
        package: "kernel-tls",
        target: "kernel",
        filters: &[],
        environment: None,
        on: On::Every,
    },
    // The relay with the kernel's TLS in place of ours, in each way that there is.
    relay("SEALWIRE_TEST_OFFLOAD=tx"),
    relay("SEALWIRE_TEST_OFFLOAD=rx"),
    relay("SEALWIRE_TEST_OFFLOAD=both"),
    relay("SEALWIRE_TEST_OFFLOAD=bulk"),
    // No way around the agent.
    testbed("leaks", &[], On::Newest),
    testbed("devices", &[], On::Newest),
    testbed("bytes_exact", &[], On::Newest),
    testbed("fail_closed", &[], On::Newest),
];

const fn relay(environment: &'static str) -> Suite {
    Suite {
        package: "userspace-tls",
        target: "lib",
        filters: &["relay::"],
        environment: Some(environment),
        on: On::Newest,
    }
}

const fn testbed(target: &'static str, filters: &'static [&'static str], on: On) -> Suite {
    Suite {
        package: tests::TESTBED,
        target,
        filters,
        environment: None,
        on,
    }
}

/// Runs them on the newest and the older release of every line.
pub(crate) fn matrix(log: &Log) -> Result<Report> {
    let programs = match tests::prepare().and_then(|()| build()) {
        Ok(programs) => programs,
        Err(error) => {
            return Ok(Report::failed(format!("tests on other kernels: {error:#}")));
        }
    };
    let mut report = Report::default();
    for line in Line::ALL {
        for age in [Age::Newest, Age::Older] {
            match on_kernel(line, age, &programs, log) {
                Ok(tests) => report += tests,
                Err(error) if error.is::<PlatformLacks>() => {
                    log.note(format!("every test on Linux {line}"), format!("{error:#}"))?;
                    report.tally += Tally::skipped(1);
                }
                Err(error) => report += Report::failed(format!("Linux {line}: {error:#}")),
            }
        }
    }
    Ok(report)
}

/// Test programs by package and target.
type Programs = BTreeMap<(&'static str, &'static str), PathBuf>;

fn build() -> Result<Programs> {
    let mut wanted = BTreeMap::<_, BTreeSet<_>>::new();
    for suite in &SUITES {
        wanted
            .entry(suite.package)
            .or_default()
            .insert(suite.target);
    }
    let mut programs = Programs::new();
    for (package, targets) in wanted {
        let mut chosen = Vec::new();
        for target in &targets {
            match *target {
                "lib" => chosen.push("--lib"),
                target => chosen.extend(["--test", target]),
            }
        }
        let built = tests::build(package, &chosen)?;
        for target in targets {
            let program = built
                .iter()
                .find(|program| program.name == target)
                .with_context(|| format!("cargo did not build {target} of {package}"))?;
            programs.insert((package, target), program.path.clone());
        }
    }
    Ok(programs)
}

fn on_kernel(line: Line, age: Age, programs: &Programs, log: &Log) -> Result<Report> {
    let kernel = Kernel::pinned(line, age).fetch()?;
    let mut report = Report::default();
    if (line, age) == (Line::ALL[0], Age::Newest) {
        report += control(&kernel);
    }
    let runs: Vec<_> = SUITES
        .iter()
        .filter(|suite| suite.on == On::Every || age == Age::Newest)
        .filter_map(|suite| {
            Some(TestRun {
                program: programs.get(&(suite.package, suite.target))?.clone(),
                environment: suite.environment,
                arguments: suite.filters.iter().map(Into::into).collect(),
            })
        })
        .collect();
    let mut machine = Machine::new(&kernel);
    machine.memory(MEMORY_MIB).timeout(TIMEOUT);
    report += tests::run_on(machine, &kernel, &runs, log)?;
    Ok(report)
}

/// What every other result here rests on: the machine tells the truth of a command, and of a kernel
/// that complains.
fn control(kernel: &Fetched) -> Report {
    let name = "vm::control";
    match try_control(kernel) {
        Ok(()) => {
            println!("test {name} ... ok");
            Report::passed()
        }
        Err(error) => {
            println!("test {name} ... FAILED: {error:#}");
            Report::failed(name.to_owned())
        }
    }
}

fn try_control(kernel: &Fetched) -> Result<()> {
    let out = run::place().join("control");
    let mut said = Vec::new();
    let mut machine = Machine::new(kernel);
    machine.out(&out);
    let Outcome { code, complaints } = machine
        .run_lines(&["sh", "-c", CONTROL], |line| said.push(line.to_owned()))
        .context("the control")?;
    ensure!(code == 7, "exit code {code}");
    let sum = process::stdout_of(Command::new("sha256sum").arg(out.join("random")))?;
    let sum = sum.split(' ').next().unwrap_or_default();
    ensure!(
        said == [format!("{sum}  -")],
        "what came out has the sum {sum}, and it was {said:?}"
    );
    ensure!(
        complaints.len() == 1 && complaints[0].ends_with("BUG: fake"),
        "of the kernel's log were told: {complaints:?}"
    );
    Ok(())
}

/// A MiB of random bytes with its sum, a line that looks like a fault of the kernel and is older than
/// the last 16 KiB of the log, and an exit code.
const CONTROL: &str = "\
head -c 1048576 /dev/urandom >/out/random
sha256sum </out/random
echo 'BUG: fake' >/dev/kmsg
for line in $(seq 400); do echo \"the log goes on, for quite a while, with line $line\" >/dev/kmsg; done
exit 7";

const MEMORY_MIB: u32 = 3072;

/// Many times what it takes on a machine with nothing else to do.
const TIMEOUT: Duration = Duration::from_hours(1);
