//! Which tests run on which kernel in `cargo xtask test`.

use anyhow::{Context as _, Result};

use super::{
    Age, Kernel, Line, Machine,
    tests::{self, TestProgram, TestRun},
};
use crate::{process::PlatformLacks, skipped::Log, tally::Tally, test::Report};

/// A test program of the testbed, and where it runs. Emulation makes everything ten to twenty times
/// slower: only what depends on the kernel runs here, and of that what is done in a few minutes.
struct Suite {
    /// The name of its file in `tests/tests`.
    test: &'static str,
    /// Only the tests with one of these in their names; all where there is none.
    filters: &'static [&'static str],
    on: Where,
}

enum Where {
    Every,
    /// What the older release of a line does differently is not in it.
    Newest,
}

const SUITES: [Suite; 3] = [
    Suite {
        test: "leaks",
        filters: &[],
        on: Where::Every,
    },
    Suite {
        test: "bytes_exact",
        filters: &[],
        on: Where::Newest,
    },
    Suite {
        test: "fail_closed",
        filters: &[],
        on: Where::Newest,
    },
];

/// Linux 6.1 joins when the guard of devices is tested there.
const LINES: [Line; 1] = [Line::V6_12];

/// Runs them on the newest and the older release of every line.
pub(crate) fn matrix(log: &Log) -> Result<Report> {
    let mut report = Report::default();
    let programs = match tests::prepare()
        .and_then(|()| tests::build(tests::TESTBED, &SUITES.map(|suite| suite.test)))
    {
        Ok(programs) => programs,
        Err(error) => return Ok(Report::failed(format!("tests on other kernels: {error:#}"))),
    };
    for line in LINES {
        for age in [Age::Newest, Age::Older] {
            match on_kernel(&Kernel::pinned(line, age), age, &programs, log) {
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

fn on_kernel(kernel: &Kernel, age: Age, programs: &[TestProgram], log: &Log) -> Result<Report> {
    let kernel = kernel.fetch()?;
    let runs = SUITES
        .iter()
        .filter(|suite| matches!((&suite.on, age), (Where::Every, _) | (_, Age::Newest)))
        .map(|suite| {
            let program = programs
                .iter()
                .find(|program| program.name == suite.test)
                .with_context(|| format!("cargo did not build the test {}", suite.test))?;
            Ok(TestRun {
                program: program.path.clone(),
                arguments: suite.filters.iter().map(Into::into).collect(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut machine = Machine::new(&kernel);
    machine.memory(MEMORY_MIB).timeout(TIMEOUT);
    tests::run_on(machine, &kernel, &runs, log)
}

const MEMORY_MIB: u32 = 3072;

const TIMEOUT: std::time::Duration = std::time::Duration::from_mins(15);
