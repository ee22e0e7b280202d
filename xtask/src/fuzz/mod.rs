//! `cargo xtask fuzz`: builds the targets of `fuzz/` with coverage instrumentation and runs them.
//!
//! libFuzzer comes from its crate; what cargo-fuzz would add is a few compiler flags, which are here.
//! Corpora, inputs that broke something, and logs lie under `target/fuzz`.

mod build;
mod run;
mod targets;

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{
    run::Limit,
    targets::{TARGETS, Target},
};
use crate::{
    packages,
    process::{self, PlatformLacks},
    skipped::Log,
    tally::Tally,
    workspace,
};

pub(crate) use build::ensure_lock;

#[derive(Args)]
pub(crate) struct Options {
    /// Run only this target; may be repeated [default: all]
    #[arg(long, value_name = "NAME", value_parser = targets::names())]
    target: Vec<String>,
    /// Inputs for each target; one that takes long for each gets a part of it
    #[arg(long, value_name = "N", default_value_t = RUNS)]
    runs: u64,
    /// Run each target for so long instead
    #[arg(long, value_name = "S", conflicts_with = "runs")]
    seconds: Option<u64>,
    /// Try this one input, to see again what it breaks
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen: Vec<_> = TARGETS
        .iter()
        .filter(|it| options.target.is_empty() || options.target.iter().any(|name| it.name == name))
        .collect();
    if let Some(input) = &options.input {
        return try_input(&chosen, input);
    }
    let limit = match options.seconds {
        Some(seconds) => Limit::Seconds(seconds),
        None => Limit::Runs(options.runs),
    };
    let tally = run_all(&chosen, limit)?;
    if tally.failed > 0 {
        bail!("{} fuzz targets failed", tally.failed);
    }
    Ok(())
}

/// Runs every target as often as it takes to call a change good. Where the targets can't be built
/// for want of a package, this notes so in `log`.
pub(crate) fn check(log: &Log) -> Result<Tally> {
    match run_all(&TARGETS.iter().collect::<Vec<_>>(), Limit::Runs(RUNS)) {
        Err(error) if error.is::<PlatformLacks>() => {
            log.note("every fuzz target", format!("{error:#}"))?;
            Ok(Tally::skipped(TARGETS.len()))
        }
        other => other,
    }
}

/// Runs as many at once as there are cores, prints a line for each, and counts.
fn run_all(chosen: &[&Target], limit: Limit) -> Result<Tally> {
    packages::ensure_to_build()?;
    packages::ensure(&["g++"])?;
    let binaries = build::build(chosen)?;
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    process::step(format!(
        "fuzzing {} targets, {cores} at a time: {limit}",
        chosen.len()
    ));
    let waiting = Mutex::new(chosen.iter());
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let worker = || -> Result<()> {
            loop {
                let next = waiting.lock().map(|mut it| it.next()).unwrap_or_default();
                let Some(target) = next else {
                    return Ok(());
                };
                let outcome = run::run(target, &binaries, limit)?;
                println!("{outcome}");
                if let Ok(mut outcomes) = outcomes.lock() {
                    outcomes.push(outcome);
                }
            }
        };
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a worker died")))
    })?;
    let outcomes = outcomes.into_inner().unwrap_or_default();
    let failed = outcomes.iter().filter(|it| it.failure.is_some()).count();
    println!(
        "{} targets, {} runs, {failed} failed",
        outcomes.len(),
        grouped(outcomes.iter().map(|it| it.runs).sum())
    );
    Ok(Tally {
        passed: outcomes.len() - failed,
        failed,
        skipped: 0,
    })
}

fn try_input(chosen: &[&Target], input: &Path) -> Result<()> {
    let [target] = chosen else {
        bail!("--input is for one --target");
    };
    let input = input
        .canonicalize()
        .with_context(|| format!("finding {}", input.display()))?;
    let binaries = build::build(chosen)?;
    process::run(Command::new(binaries.join(target.name)).arg(input))
}

/// Where everything lies that fuzzing makes.
fn directory() -> PathBuf {
    workspace::target().join("fuzz")
}

/// A directory of a target's, made if it isn't there.
fn directory_of(target: &Target, what: &str) -> Result<PathBuf> {
    let path = directory().join(what).join(target.name);
    fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

/// `1,000,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many inputs each target gets before a change is taken.
const RUNS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped_by_thousands() {
        let numbers = [0, 999, 1000, 12_345, 1_000_000];
        assert_eq!(
            numbers.map(grouped),
            ["0", "999", "1,000", "12,345", "1,000,000"]
        );
    }
}
