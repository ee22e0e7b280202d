//! Which tests run on which kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    panic::resume_unwind,
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Error, Result, ensure};

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
    /// The tests with one of these in their names alone; all where there is none.
    only: &'static [&'static str],
    /// Without those that have one of these in theirs.
    without: &'static [&'static str],
    /// Variables, as `NAME=VALUE`.
    environment: [Option<&'static str>; 3],
    /// Lines of the shell that make the surroundings, and unmake them.
    around: Option<[&'static str; 2]>,
    on: On,
    scope: Scope,
}

/// How much is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// What `cargo xtask test` has the time for.
    Core,
    /// All.
    Whole,
}

impl Suite {
    const fn in_core(self) -> Self {
        Self {
            scope: Scope::Core,
            ..self
        }
    }

    /// Of the test harness.
    fn arguments(&self) -> Vec<OsString> {
        let without = self.without.iter().flat_map(|name| ["--skip", *name]);
        self.only
            .iter()
            .copied()
            .chain(without)
            .map(Into::into)
            .collect()
    }
}

/// The kernels that a suite runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// All: it says which faults a kernel has, or must hold in spite of them.
    Every,
    /// The newest of each line: what the older ones do differently is not in it.
    Newest,
}

const SUITES: [Suite; 20] = [
    // What the kernel's TLS does, and what the agent's probe makes of it.
    Suite {
        package: "kernel-tls",
        target: "kernel",
        only: &[],
        without: &[],
        environment: [None; 3],
        around: None,
        on: On::Every,
        scope: Scope::Core,
    },
    // The relay with the kernel's TLS in place of ours, in each way that there is.
    relay(
        "SEALWIRE_TEST_OFFLOAD=both",
        &[KERNEL, SPLICE, OPENSSL, GNUTLS, TRUNCATED],
    )
    .in_core(),
    relay(
        "SEALWIRE_TEST_OFFLOAD=bulk",
        &[KERNEL, SPLICE, OPENSSL, GNUTLS, TRUNCATED],
    ),
    // What only the kernel's TLS does, but for the longest.
    Suite {
        only: &[KERNEL, SPLICE],
        ..relay("SEALWIRE_TEST_OFFLOAD=bulk", &[GIBIBYTE])
    }
    .in_core(),
    Suite {
        only: &[GIBIBYTE],
        ..relay("SEALWIRE_TEST_OFFLOAD=bulk", &[])
    },
    relay(
        "SEALWIRE_TEST_OFFLOAD=tx",
        &[KERNEL, SPLICE, OPENSSL, GNUTLS, TRUNCATED],
    ),
    relay(
        "SEALWIRE_TEST_OFFLOAD=rx",
        &[KERNEL, SPLICE, OPENSSL, GNUTLS, TRUNCATED],
    ),
    // Other programs at the other end.
    Suite {
        only: &[OPENSSL, GNUTLS, TRUNCATED],
        ..relay("SEALWIRE_TEST_OFFLOAD=both", &[])
    },
    // A wire that loses, delays and reorders.
    Suite {
        only: &BULK,
        around: Some([
            "/usr/sbin/tc qdisc add dev lo root netem delay 2ms 1ms loss 1% reorder 5%",
            "/usr/sbin/tc qdisc del dev lo root",
        ]),
        ..relay("SEALWIRE_TEST_OFFLOAD=bulk", &[])
    },
    // A kernel that is short of memory for sockets.
    Suite {
        only: &BULK,
        around: Some(SHORT_OF_MEMORY),
        ..relay("SEALWIRE_TEST_OFFLOAD=bulk", &[])
    },
    // No way around the agent.
    testbed("leaks", &[]),
    testbed("devices", &[]).in_core(),
    testbed("shared_netns", &[]),
    testbed("udp", &[]),
    // An agent takes over in ten seconds at most, which emulation may not do.
    testbed("wildcard_names", &["takes_over", "a_flood"]),
    testbed("local_acceleration", &[]),
    // The agents with the kernel's TLS in place of ours.
    kernel_datapath("bytes_exact", &[IN_ORDER]),
    kernel_datapath("fail_closed", &[]),
    kernel_datapath("rotation", &[]),
    kernel_datapath("scale", &["for_a_minute", "a_burst", GIBIBYTE]),
];

/// A worker waits 50 ms for a connection that is late, and emulation is later than that.
const IN_ORDER: &str = "one_worker_keeps_connections_in_the_order_in_which_they_were_made";

// Modules of the relay's tests.
const KERNEL: &str = "tests::kernel::";
const SPLICE: &str = "tests::splice::";
const OPENSSL: &str = "tests::openssl::";
const GNUTLS: &str = "tests::gnutls::";
const TRUNCATED: &str = "tests::truncated::";

/// Sockets get memory by the page, and are told to do with less. Fails where none has noticed.
const SHORT_OF_MEMORY: [&str; 2] = [
    "cat /proc/sys/net/ipv4/tcp_mem >/tmp/tcp_mem && echo 64 96 8192 >/proc/sys/net/ipv4/tcp_mem",
    "cat /tmp/tcp_mem >/proc/sys/net/ipv4/tcp_mem && awk '
        /^TcpExt:/ && !column {
            for (i = NF; i > 1; i--) if ($i == \"TCPMemoryPressures\") break
            column = i
            next
        }
        /^TcpExt:/ { noticed = $column }
        END { print \"TCP was short of memory\", noticed, \"times\"; exit noticed + 0 == 0 }
    ' /proc/net/netstat",
];

/// Minutes under emulation.
const GIBIBYTE: &str = "a_gibibyte";

/// Those that move much, or to readers that are slow, but not for ever.
const BULK: [&str; 5] = [
    "every_byte_arrives_through_tiny",
    "changes_hands_in_full_flow",
    "what_was_sent_last_arrives",
    "no_byte_is_lost_when_buffers_are_tiny",
    "control_records_between_spliced_data",
];

const fn relay(offload: &'static str, without: &'static [&'static str]) -> Suite {
    Suite {
        package: "userspace-tls",
        target: "lib",
        only: &["relay::"],
        without,
        environment: [Some(offload), None, None],
        around: None,
        on: On::Newest,
        scope: Scope::Whole,
    }
}

const fn testbed(target: &'static str, without: &'static [&'static str]) -> Suite {
    Suite {
        package: tests::TESTBED,
        target,
        only: &[],
        without,
        environment: [None; 3],
        around: None,
        on: On::Newest,
        scope: Scope::Whole,
    }
}

const fn kernel_datapath(target: &'static str, without: &'static [&'static str]) -> Suite {
    Suite {
        environment: [
            Some("SEALWIRE_OFFLOAD=both"),
            Some("SEALWIRE_TEST_DATAPATH=kernel"),
            // 2,000 handshakes take minutes, and a program that waits so long gives up.
            Some("SEALWIRE_TEST_CONNECTIONS=300"),
        ],
        ..testbed(target, without)
    }
}

/// Runs them on the newest and the older release of every line, the lines beside each other.
pub(crate) fn matrix(scope: Scope, log: &Log) -> Result<Report> {
    let programs = match tests::prepare().and_then(|()| build()) {
        Ok(programs) => programs,
        Err(error) => {
            return Ok(Report::failed(format!("tests on other kernels: {error:#}")));
        }
    };
    let mut kernels = BTreeMap::<_, Vec<_>>::new();
    let mut report = Report::default();
    for line in Line::ALL {
        for age in [Age::Newest, Age::Older] {
            match Kernel::pinned(line, age).fetch() {
                Ok(kernel) => kernels.entry(line).or_default().push((age, kernel)),
                Err(error) if error.is::<PlatformLacks>() => {
                    log.note(format!("every test on Linux {line}"), format!("{error:#}"))?;
                    report.tally += Tally::skipped(1);
                }
                Err(error) => report += Report::failed(format!("Linux {line}: {error:#}")),
            }
        }
    }
    if let Some((_, kernel)) = kernels.values().flatten().next() {
        report += control(kernel);
    }
    thread::scope(|threads| {
        let programs = &programs;
        let lines: Vec<_> = kernels
            .values()
            .map(|kernels| {
                threads.spawn(move || {
                    kernels
                        .iter()
                        .try_fold(Report::default(), |mut report, (age, kernel)| {
                            report += on_kernel(*age, scope, kernel, programs, log)?;
                            Ok::<_, Error>(report)
                        })
                })
            })
            .collect();
        for line in lines {
            report += line.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        Ok(report)
    })
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

fn on_kernel(
    age: Age,
    scope: Scope,
    kernel: &Fetched,
    programs: &Programs,
    log: &Log,
) -> Result<Report> {
    let runs: Vec<_> = SUITES
        .iter()
        .filter(|suite| scope == Scope::Whole || suite.scope == Scope::Core)
        .filter(|suite| suite.on == On::Every || age == Age::Newest)
        .filter_map(|suite| {
            Some(TestRun {
                program: programs.get(&(suite.package, suite.target))?.clone(),
                environment: suite.environment.into_iter().flatten().collect(),
                arguments: suite.arguments(),
                around: suite.around,
            })
        })
        .collect();
    let mut machine = Machine::new(kernel);
    machine.memory(MEMORY_MIB).timeout(TIMEOUT);
    let mut report = tests::run_on(machine, kernel, &runs, log)?;
    if report.idle > 0 {
        // A test that was renamed must not leave the matrix unseen.
        let idle = report.idle;
        report += Report::failed(format!(
            "Linux {}: {idle} suites whose names choose no test",
            kernel.release
        ));
    }
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
