//! `cargo xtask ci`: everything that must hold before a change is taken.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    cargo_tool::CargoTool, counted, ebpf, fuzz, musl, packages, process, skipped::Log,
    tally::Tally, test, workspace,
};

#[derive(Args)]
pub(crate) struct Options {
    /// Run only the steps whose names contain this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Runs every step, also after one failed, so that one run shows all that is wrong.
pub(crate) fn run(options: &Options) -> Result<()> {
    let log = Log::open()?;
    let only = options.only.as_deref().unwrap_or_default();
    let mut total = Tally::default();
    let mut summary = Vec::new();
    for step in STEPS.iter().filter(|step| step.name.contains(only)) {
        process::step(format!("ci: {}", step.name));
        let started = Instant::now();
        let tally = step.judge(&log);
        summary.push(step.line(tally, started.elapsed()));
        total += tally;
    }
    if summary.is_empty() {
        bail!("no step of ci has `{only}` in its name");
    }
    println!();
    for line in summary {
        println!("{line}");
    }
    println!("{total}");
    if total.failed > 0 {
        bail!("ci failed");
    }
    Ok(())
}

struct Step {
    name: &'static str,
    run: fn(&Log) -> Result<Outcome>,
}

enum Outcome {
    /// One check, which passed unless it noted in the log that it was skipped.
    Checked,
    /// Many checks, which counted themselves.
    Counted(Tally),
}

impl Step {
    fn judge(&self, log: &Log) -> Tally {
        let noted = log.lines().len();
        match (self.run)(log) {
            Ok(Outcome::Counted(tally)) => tally,
            Ok(Outcome::Checked) => match log.lines().len() - noted {
                0 => Tally::PASSED,
                skipped => Tally::skipped(skipped),
            },
            Err(error) => {
                eprintln!("error: {}: {error:#}", self.name);
                Tally::FAILED
            }
        }
    }

    fn line(&self, tally: Tally, took: Duration) -> String {
        let verdict = match tally {
            Tally { failed: 1.., .. } => "FAILED",
            Tally { passed: 0, .. } => "SKIPPED",
            _ => "ok",
        };
        format!(
            "{:<8} {:<12} {:>5} s  {tally}",
            verdict,
            self.name,
            took.as_secs()
        )
    }
}

const STEPS: [Step; 11] = [
    Step {
        name: "fmt",
        run: |_| {
            cargo(&["fmt", "--all", "--check"])?;
            cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"])
        },
    },
    Step {
        name: "clippy",
        run: |_| {
            packages::ensure_to_build()?;
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "--deny=warnings",
            ])?;
            cargo(&[
                "clippy",
                "--package=agent",
                "--features=otlp",
                "--",
                "--deny=warnings",
            ])?;
            fuzz::ensure_lock()?;
            cargo(&[
                "clippy",
                "--manifest-path",
                "fuzz/Cargo.toml",
                "--bins",
                "--lib",
                "--",
                "--deny=warnings",
            ])
        },
    },
    Step {
        name: "doc",
        run: |_| doc(),
    },
    Step {
        name: "deny",
        run: |_| deny(),
    },
    Step {
        name: "advisories",
        run: advisories,
    },
    Step {
        name: "ebpf",
        run: |log| ebpf::check(log).map(|()| Outcome::Checked),
    },
    Step {
        name: "musl",
        run: |_| musl::check().map(|()| Outcome::Checked),
    },
    Step {
        name: "book",
        run: book,
    },
    Step {
        name: "fuzz",
        run: |log| fuzz::check(log).map(Outcome::Counted),
    },
    Step {
        name: "counted",
        run: |log| counted::check(log).map(|()| Outcome::Checked),
    },
    Step {
        name: "test",
        run: |log| test::tally(&test::Options::default(), log).map(Outcome::Counted),
    },
];

fn cargo(arguments: &[&str]) -> Result<Outcome> {
    checked(workspace::cargo().args(arguments))
}

fn doc() -> Result<Outcome> {
    checked(
        workspace::cargo()
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ])
            .env("RUSTDOCFLAGS", "--deny=warnings"),
    )
}

/// What `deny.toml` says of licences, sources and who may depend on what.
fn deny() -> Result<Outcome> {
    checked(cargo_deny()?.args([
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))
}

/// Known vulnerabilities, where their database can be reached.
fn advisories(log: &Log) -> Result<Outcome> {
    let mut fetch = process::quiet_stdout("timeout");
    fetch
        .current_dir(workspace::root())
        .arg(FETCH_SECONDS)
        .arg(CARGO_DENY.ensure()?)
        .args(["fetch", "db"]);
    if let Err(error) = process::run(&mut fetch) {
        log.note(
            "advisories",
            format!("their database can't be fetched: {error}"),
        )?;
        return Ok(Outcome::Checked);
    }
    checked(cargo_deny()?.args(["check", "advisories"]))
}

fn cargo_deny() -> Result<Command> {
    let mut command = process::quiet_stdout(CARGO_DENY.ensure()?);
    command.current_dir(workspace::root()).arg("--workspace");
    Ok(command)
}

/// The documentation, as people will read it.
fn book(log: &Log) -> Result<Outcome> {
    if !workspace::root().join("docs/book.toml").exists() {
        log.note("book", "there is no docs/book.toml")?;
        return Ok(Outcome::Checked);
    }
    let mdbook = MDBOOK.ensure()?;
    checked(
        process::quiet_stdout(mdbook)
            .current_dir(workspace::root())
            .args(["build", "docs", "--dest-dir"])
            .arg(workspace::target().join("book")),
    )
}

fn checked(command: &mut Command) -> Result<Outcome> {
    process::run(command)?;
    Ok(Outcome::Checked)
}

/// A machine without a way to the database must not wait for it long.
const FETCH_SECONDS: &str = "120";

const CARGO_DENY: CargoTool = CargoTool {
    name: "cargo-deny",
    version: "0.20.2",
    // Unoptimised: it compiles in a third of the time and checks in a second all the same.
    options: &["--debug", "--no-default-features"],
};

const MDBOOK: CargoTool = CargoTool {
    name: "mdbook",
    version: "0.5.4",
    options: &["--debug", "--no-default-features"],
};
