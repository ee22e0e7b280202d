//! `sealwire check`: whether the agent would run with what it is given.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use agent_config::flags::{Environment, Flags};
use agent_config::{Config, ConfigError, ConfigFile, Finding, Place, Workload, effective};
use clap::Args;
use serde_json::{Value, json};

use crate::failure::Failure;

/// Check the agent's configuration: the file together with the environment, as the agent takes them.
///
/// Every mistake is told at once, with its place and what to do: line and column in a file, entry and
/// column in Contrast's strings. Nothing is changed, and nobody is asked.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Check {
    #[command(flatten)]
    source: Source,

    /// Look for cgroups, namespaces and directories on this machine, too
    #[arg(long)]
    machine: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What the agent would run with.
#[derive(Args)]
pub(crate) struct Source {
    /// The agent's file, - for standard input [default: that of `SEALWIRE_CONFIG`, else the environment alone]
    #[arg(value_name = "FILE|-")]
    file: Option<String>,
}

impl Source {
    /// The file that is named, if one is, and the options that go with it.
    pub(crate) fn read(&self) -> Result<(Flags, Environment, Option<ConfigFile>), ConfigError> {
        let environment = Environment::of_process();
        let named = || environment.value("SEALWIRE_CONFIG").map(str::to_owned);
        let file = match self.file.clone().or_else(named).as_deref() {
            None => None,
            Some("-") => Some(ConfigFile::from_reader(STDIN.as_ref(), io::stdin().lock())?),
            Some(path) => Some(ConfigFile::read(Path::new(path))?),
        };
        Ok((Flags::default(), environment, file))
    }
}

impl Check {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let judged = self.judge();
        match judged {
            Ok(config) if self.json => {
                Ok(format!("{:#}\n", json!({ "ok": true, "config": config })))
            }
            Ok(config) => Ok(summary(&config)?),
            Err(error) if self.json => Err(Failure::Invalid(format!("{:#}\n", as_json(&error)))),
            Err(error) => Err(Failure::usage(error)),
        }
    }

    fn judge(&self) -> Result<Config, ConfigError> {
        let (flags, environment, file) = self.source.read()?;
        let config = effective(&flags, &environment, file)?;
        if self.machine {
            config.check_system()?;
        }
        Ok(config)
    }
}

fn summary(config: &Config) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for Workload {
        name,
        ingress,
        egress,
        listeners,
        ..
    } in &config.workloads
    {
        writeln!(
            text,
            "workload {name}: ingress {} but for {}, egress {} but for {}, {}",
            ingress.default_mode().as_str(),
            count(ingress.rules().len(), "rule"),
            egress.default_mode().as_str(),
            count(egress.rules().len(), "rule"),
            count(listeners.len(), "listener"),
        )?;
    }
    writeln!(text, "ok: {}", count(config.workloads.len(), "workload"))?;
    Ok(text)
}

/// So many of something, by its name.
pub(crate) fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

fn as_json(error: &ConfigError) -> Value {
    let mistakes = match error {
        ConfigError::Invalid(findings) => findings.iter().map(mistake).collect(),
        other => vec![json!({ "what": other.to_string() })],
    };
    json!({ "ok": false, "mistakes": mistakes })
}

fn mistake(finding: &Finding) -> Value {
    let Finding {
        place,
        subject,
        problem,
    } = finding;
    let place = place.as_ref().map(|place| match place {
        Place::Flag(name) => json!({ "option": name }),
        Place::Variable(name) => json!({ "variable": name }),
        Place::Entry {
            variable,
            entry,
            column,
        } => json!({ "variable": variable, "entry": entry, "column": column }),
        Place::File { path, line, column } => {
            json!({ "file": path.display().to_string(), "line": line, "column": column })
        }
    });
    json!({
        "place": place,
        "subject": subject.as_ref().map(ToString::to_string),
        "what": problem.to_string(),
    })
}

/// What messages call it.
const STDIN: &str = "standard input";

const EXAMPLES: &str = "\
Examples:
  sealwire check /etc/sealwire/agent.toml
  sealwire check --machine /etc/sealwire/agent.toml
  SEALWIRE_CGROUP=/c CONTRAST_INGRESS_PROXY_CONFIG='web#8080#false' sealwire check

Exit codes: 0 the agent would take it, 2 it would not.";
