//! The Coordinator: what an enrolment costs, how fast agents follow a new manifest, what they cost
//! while they watch.

mod agent;
mod client;
mod cores;
mod deployment;
mod enrolment;
mod fleet;
mod report;
mod rotation;
mod verification;
mod watching;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::figure::Reading;
use crate::machine::Machine;
use crate::readings::{Readings, Route};
use crate::run::Measure;
use agent::Pace;
use client::Client;
use cores::Cores;
use deployment::Deployment;
use enrolment::Enrolments;
use report::Report;
use verification::Verification;

/// How to measure the Coordinator, and where to write it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    measure: Measure,

    /// Agents that follow a new manifest
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    agents: Option<u32>,

    /// Agents that watch at once
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    watchers: Option<u32>,
}

/// Measures the Coordinator and reports it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let measure = &options.measure;
    let machine = Machine {
        versions: vec![deployment::version()?],
        ..Machine::read()?
    };
    let cores = Cores::divide()?;
    let mut remarks: Vec<String> = machine.warning().into_iter().collect();
    if cores.are_shared {
        remarks.push("the clients shared the Coordinator's only core".to_owned());
    }
    for remark in &remarks {
        eprintln!("! {remark}");
    }
    let (agents, watchers) = if measure.quick {
        (100, 500)
    } else {
        (1_000, 10_000)
    };
    let mut lab = Lab {
        cores,
        duration: Duration::from_secs(measure.seconds()),
        verification: None,
    };
    let scenarios = Scenario::all(
        options.agents.unwrap_or(agents),
        options.watchers.unwrap_or(watchers),
    );
    raise_file_limit()?;
    // After the division, so that its threads are on the harness's cores.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.of_harness)
        .enable_all()
        .build()?;
    let mut readings = Readings::default();
    for round in 0..measure.rounds() {
        for &scenario in &scenarios {
            let name = scenario.name();
            let trial = run_until_interrupted(&runtime, lab.run(scenario));
            let trial = trial.with_context(|| name.clone())?;
            eprintln!("round {} of {}: {name}", round + 1, measure.rounds());
            readings.add(&name, Route::Sealwire, &trial);
        }
    }
    // Agents that nobody waits for any more are of no interest.
    runtime.shutdown_background();
    let report = Report {
        command: command(options),
        machine,
        rounds: measure.rounds(),
        seconds: measure.seconds(),
        remarks,
        figures: readings.figures(),
    };
    print!("{}", report.table());
    measure.write(&report, || report.markdown())
}

/// One kind of load.
#[derive(Clone, Copy, Debug)]
enum Scenario {
    /// Evidence is judged in this process.
    Verification,
    /// Clients enrol again and again.
    Enrolment { clients: u32 },
    /// Agents follow a new manifest.
    Rotation { agents: u32, pace: Pace },
    /// Agents watch, and nothing happens.
    Watching { agents: u32 },
}

impl Scenario {
    fn all(agents: u32, watchers: u32) -> Vec<Self> {
        let rotation = |pace| Self::Rotation { agents, pace };
        vec![
            Self::Verification,
            Self::Enrolment { clients: 1 },
            Self::Enrolment { clients: 16 },
            rotation(Pace::Spread),
            rotation(Pace::AtOnce),
            Self::Watching { agents: watchers },
        ]
    }

    fn name(self) -> String {
        match self {
            Self::Verification => "verification of evidence alone, on one core".to_owned(),
            Self::Enrolment { clients: 1 } => "enrolment, one client".to_owned(),
            Self::Enrolment { clients } => format!("enrolment, {clients} clients"),
            Self::Rotation { agents, pace } => {
                let pace = match pace {
                    Pace::Spread => "as agents do it",
                    Pace::AtOnce => "all at once",
                };
                format!("rotation, {agents} agents, {pace}")
            }
            Self::Watching { agents } => format!("{agents} agents watching"),
        }
    }
}

/// Where trials take place.
#[derive(Debug)]
struct Lab {
    cores: Cores,
    duration: Duration,
    /// Of this round.
    verification: Option<Verification>,
}

impl Lab {
    async fn run(&mut self, scenario: Scenario) -> Result<Vec<Reading>> {
        let Self {
            cores, duration, ..
        } = *self;
        match scenario {
            Scenario::Verification => {
                let verification = Verification::measure(duration)?;
                self.verification = Some(verification);
                Ok(verification.readings())
            }
            Scenario::Enrolment { clients } => {
                let deployment = Deployment::start(&cores).await?;
                let client = Arc::new(Client::new(&deployment)?);
                let enrolments =
                    Enrolments::measure(&deployment, &client, clients, duration).await?;
                // A core that waits is a slow one: only one that is busy says what it can do.
                enrolments.readings(self.verification.filter(|_| clients > 1))
            }
            Scenario::Rotation { agents, pace } => rotation::measure(&cores, agents, pace).await,
            Scenario::Watching { agents } => watching::measure(&cores, agents, duration).await,
        }
    }
}

fn run_until_interrupted<T>(
    runtime: &Runtime,
    trial: impl Future<Output = Result<T>>,
) -> Result<T> {
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            trial = trial => trial,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("interrupted"),
        }
    })
}

fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

fn command(options: &Options) -> String {
    let Options {
        measure,
        agents,
        watchers,
    } = options;
    let mut command = format!(
        "bench coordinator --rounds {} --seconds {}",
        measure.rounds(),
        measure.seconds()
    );
    for (option, value) in [("--agents", agents), ("--watchers", watchers)] {
        if let Some(value) = value {
            let _ = write!(command, " {option} {value}");
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_have_names_of_their_own() {
        let names: Vec<_> = Scenario::all(1_000, 10_000)
            .into_iter()
            .map(Scenario::name)
            .collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert_eq!(names[4], "rotation, 1000 agents, all at once");
    }
}
