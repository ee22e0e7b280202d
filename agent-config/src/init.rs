//! The configuration of `sealwire-agent init`.

use std::path::PathBuf;
use std::time::Duration;

use super::check::Checker;
use super::coordinator::Coordinator;
use super::file::{ConfigFile, Given, Origin};
use super::layers::{LOG_FORMAT, LOG_LEVEL, Layers};
use super::problem::{ConfigError, Problem};
use super::{named_file, parts};
use crate::flags::{Environment, InitFlags};
use crate::{LogFormat, LogLevel};

/// Everything that `init` needs to know.
#[derive(Clone, Debug)]
pub struct InitConfig {
    /// Where the Coordinator is, and what it and this machine prove.
    pub coordinator: Coordinator,
    /// Where certificates and key go.
    pub out: PathBuf,
    /// Where the workload's secret goes.
    pub secrets: PathBuf,
    /// When to give up; `None` is never.
    pub timeout: Option<Duration>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The least important level that is logged.
    pub log_level: LogLevel,
}

impl InitConfig {
    /// Reads the file that `flags` or `environment` name, if any, and combines all three. Of the
    /// file only `[coordinator]` and the log's keys count.
    pub fn load(flags: &InitFlags, environment: &Environment) -> Result<Self, ConfigError> {
        let file = named_file(&flags.shared(), environment)?;
        Self::effective(flags, environment, file)
    }

    /// Combines the command line, the environment and the file, if there is one.
    pub fn effective(
        flags: &InitFlags,
        environment: &Environment,
        file: Option<ConfigFile>,
    ) -> Result<Self, ConfigError> {
        let shared = flags.shared();
        let given = Layers {
            flags: &shared,
            environment,
        };
        let (source, keys, mistakes) = parts(file);
        let mut checker = Checker::new(source.as_ref());
        checker.take(mistakes);

        let merged = given.coordinator_keys_of_init(keys.coordinator);
        let origin = merged.origin().unwrap_or(Origin::Nowhere);
        let coordinator = checker.coordinator(merged, origin);
        let out = given.either(flags.out.as_ref(), "--out", "SEALWIRE_OUT");
        let secrets = given.either(flags.secrets.as_ref(), "--secrets", "SEALWIRE_SECRETS");
        let timeout = given.either(flags.timeout.as_ref(), "--timeout", "SEALWIRE_TIMEOUT");
        let out = checker.required("out", ADD_OUT, out, Origin::Nowhere);
        let out = out.map(|out| checker.file("out", out));
        let out = out.unwrap_or_default();
        let secrets = secrets.map(|secrets| checker.file("secrets", secrets));
        let timeout = timeout.and_then(|timeout| checker.timeout(timeout));
        let log_format = checker.word(
            "log_format",
            given.option(LOG_FORMAT).or(keys.log_format),
            LogFormat::Text,
            &LogFormat::ALL,
            LogFormat::as_str,
        );
        let log_level = checker.word(
            "log_level",
            given.option(LOG_LEVEL).or(keys.log_level),
            LogLevel::Info,
            &LogLevel::ALL,
            LogLevel::as_str,
        );
        checker.finish()?;
        Ok(Self {
            coordinator,
            secrets: secrets.unwrap_or_else(|| out.clone()),
            out,
            timeout,
            log_format,
            log_level,
        })
    }
}

impl Checker<'_> {
    fn timeout(&mut self, given: Given<String>) -> Option<Duration> {
        let Given { value: got, origin } = given;
        let seconds = got
            .parse()
            .ok()
            .filter(|seconds: &u32| (1..=LONGEST_TIMEOUT).contains(seconds));
        if seconds.is_none() {
            let most = LONGEST_TIMEOUT;
            self.report(origin, Problem::Timeout { got, most });
        }
        seconds.map(|seconds| Duration::from_secs(seconds.into()))
    }
}

const ADD_OUT: &str = "give --out DIR";

/// A week.
const LONGEST_TIMEOUT: u32 = 7 * 24 * 60 * 60;
