//! One run of one target.

use std::{
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{directory_of, grouped, targets::Target};

/// When a target has been run enough.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    /// After so many inputs, or the part of them that the target gets.
    Runs(u64),
    /// After so many seconds.
    Seconds(u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs(runs) => write!(
                f,
                "{} runs, or a part of that where one takes long",
                grouped(*runs)
            ),
            Self::Seconds(seconds) => write!(f, "{seconds} s each"),
        }
    }
}

/// What became of a target.
pub(super) struct Outcome {
    name: &'static str,
    /// How many inputs it was given.
    pub(super) runs: u64,
    /// Which part of the runs that was: one of so many.
    part: u64,
    took: Duration,
    pub(super) failure: Option<Failure>,
}

pub(super) struct Failure {
    /// What the target said.
    what: String,
    /// The input that broke it; nothing where it broke before the first.
    input: Option<PathBuf>,
    log: PathBuf,
}

/// Runs a target, beginning with its seeds and what earlier runs found worth keeping.
pub(super) fn run(target: &Target, binaries: &Path, limit: Limit) -> Result<Outcome> {
    let corpus = directory_of(target, "corpus")?;
    let seeds = directory_of(target, "seeds")?;
    let artifacts = directory_of(target, "artifacts")?;
    let log = directory_of(target, "logs")?.join("log");
    let output = File::create(&log).with_context(|| format!("writing {}", log.display()))?;
    let mut command = Command::new(binaries.join(target.name));
    command
        .args([&corpus, &seeds])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_len={}", target.max_len))
        .arg(match limit {
            Limit::Runs(runs) => format!("-runs={}", runs / target.part),
            Limit::Seconds(seconds) => format!("-max_total_time={seconds}"),
        })
        .args([TIMEOUT, MEMORY, "-print_final_stats=1"])
        .env("SEALWIRE_FUZZ_SEEDS", &seeds)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output);
    let started = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("starting the fuzz target {}", target.name))?;
    let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    Ok(Outcome {
        name: target.name,
        runs: runs(&said),
        part: match limit {
            Limit::Runs(_) => target.part,
            Limit::Seconds(_) => 1,
        },
        took: started.elapsed(),
        failure: (!status.success()).then(|| Failure {
            what: reason(&said).unwrap_or_else(|| status.to_string()),
            input: input(&said),
            log,
        }),
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.failure.is_some() {
            "FAILED"
        } else {
            "ok"
        };
        let milliseconds = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        let rate = self.runs.saturating_mul(1000) / milliseconds.max(1);
        write!(
            f,
            "{verdict:<8} {:<18} {:>11} runs {:>9}/s {:>5} s",
            self.name,
            grouped(self.runs),
            grouped(rate),
            self.took.as_secs()
        )?;
        if self.part > 1 {
            write!(f, "  (1/{}: a run takes long)", self.part)?;
        }
        let Some(Failure { what, input, log }) = &self.failure else {
            return Ok(());
        };
        write!(f, "\n         {what}\n         log: {}", log.display())?;
        match input {
            Some(input) => write!(
                f,
                "\n         again: cargo xtask fuzz --target {} --input {}",
                self.name,
                input.display()
            ),
            None => write!(f, "\n         before the first input"),
        }
    }
}

/// How many inputs were tried, by what libFuzzer says at its end, or on the way if it had none.
fn runs(said: &str) -> u64 {
    let of_end = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let on_the_way = said.lines().rev().find_map(|line| {
        let (number, _) = line.strip_prefix('#')?.split_once('\t')?;
        Some(number)
    });
    of_end
        .or(on_the_way)
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or_default()
}

/// The panic, or libFuzzer's word for what was wrong.
fn reason(said: &str) -> Option<String> {
    let mut lines = said
        .lines()
        .skip_while(|line| !line.contains("panicked at"));
    if let Some(place) = lines.next() {
        let place = place.split_once("panicked at ").map_or(place, |(_, it)| it);
        let message = lines.next().unwrap_or_default();
        let told = format!("{place} {message}");
        return Some(told.chars().take(LONGEST_REASON).collect());
    }
    said.lines()
        .find_map(|line| line.split_once("ERROR: "))
        .map(|(_, error)| error.to_owned())
}

/// Where libFuzzer put the input that broke something.
fn input(said: &str) -> Option<PathBuf> {
    said.lines()
        .find_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| PathBuf::from(path.trim()))
}

/// In characters. The log has all of it.
const LONGEST_REASON: usize = 300;
/// The longest that one input may take.
const TIMEOUT: &str = "-timeout=10";
/// The most memory that a target may take, in MiB: many times what it does take, and little enough
/// that an input which makes it allocate without bound is found.
const MEMORY: &str = "-rss_limit_mb=512";

#[cfg(test)]
mod tests {
    use super::*;

    const CRASH: &str = "INFO: Seed: 1\n\
        #2048\tREDUCE cov: 1 ft: 1\n\
        thread '<unnamed>' (7) panicked at src/bin/history.rs:59:5:\n\
        assertion failed: a == b\n\
        stack backtrace:\n\
        ==7== ERROR: libFuzzer: deadly signal\n\
        artifact_prefix='/t/'; Test unit written to /t/crash-1\n";

    #[test]
    fn a_panic_is_told_with_its_place_and_input() {
        let expected = "src/bin/history.rs:59:5: assertion failed: a == b";
        assert_eq!(reason(CRASH).as_deref(), Some(expected));
        assert_eq!(input(CRASH), Some("/t/crash-1".into()));
        assert_eq!(runs(CRASH), 2048);
    }

    #[test]
    fn a_hang_is_told_in_libfuzzers_words() {
        let said = "==7== ERROR: libFuzzer: timeout after 11 seconds\n";
        let expected = "libFuzzer: timeout after 11 seconds";
        assert_eq!(reason(said).as_deref(), Some(expected));
        assert_eq!((input(said), runs(said)), (None, 0));
    }

    #[test]
    fn the_runs_are_those_of_the_final_count() {
        let said = "#8\tINITED cov: 1\n#10\tDONE\nstat::number_of_executed_units: 10\n";
        assert_eq!(runs(said), 10);
        assert_eq!(reason(said), None);
    }

    #[test]
    fn a_part_of_the_runs_is_said_to_be_one() {
        let outcome = |part| Outcome {
            name: "history",
            runs: 200_000,
            part,
            took: Duration::from_secs(20),
            failure: None,
        };
        assert_eq!(
            outcome(5).to_string(),
            "ok       history                200,000 runs    10,000/s    20 s  \
             (1/5: a run takes long)"
        );
        assert!(outcome(1).to_string().ends_with("20 s"));
    }
}
