//! A run: rounds of trials, without and with agents in turn.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use signal_hook::consts::TERM_SIGNALS;
use testbed::skip;

use crate::machine::Machine;
use crate::readings::{Readings, Route};
use crate::report::Report;
use crate::scenario::{Scenario, Suite, Trial};
use crate::site::Site;

/// How often and how long to measure, and where to write it.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// Rounds of each figure
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Seconds of each trial
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// One round of one second, and fewer connections and agents: to see that it works, not how fast
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub(crate) quick: bool,

    /// Write everything, every round's value too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a page for people
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

impl Measure {
    pub(crate) fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    pub(crate) fn seconds(&self) -> u64 {
        if self.quick { 1 } else { self.seconds }
    }

    /// Writes what was found to where it was asked for.
    pub(crate) fn write(
        &self,
        report: &impl Serialize,
        markdown: impl FnOnce() -> String,
    ) -> Result<()> {
        if let Some(path) = &self.json {
            write(path, &serde_json::to_string_pretty(report)?)?;
        }
        if let Some(path) = &self.markdown {
            write(path, &markdown())?;
        }
        Ok(())
    }
}

/// Measures a suite and reports it.
pub(crate) fn run(suite: Suite, measure: &Measure) -> Result<()> {
    if let Err(reason) = skip::possible(&["iperf3", "wrk", "nginx", "ss"]) {
        bail!("nothing can be measured here: {reason}");
    }
    let machine = Machine::read()?;
    let mut run = Run {
        rounds: measure.rounds(),
        seconds: measure.seconds(),
        interrupted: Arc::default(),
        readings: Readings::default(),
        congestion_controls: BTreeSet::new(),
        remarks: machine.warning().into_iter().collect(),
    };
    for remark in &run.remarks {
        eprintln!("! {remark}");
    }
    for signal in TERM_SIGNALS {
        signal_hook::flag::register(*signal, Arc::clone(&run.interrupted))?;
    }
    let idle = if measure.quick { 1_000 } else { 10_000 };
    run.measure(&suite.scenarios(idle))?;

    let report = run.report(suite, machine);
    print!("{}", report.table());
    measure.write(&report, || report.markdown())
}

#[derive(Debug)]
struct Run {
    rounds: u32,
    seconds: u64,
    interrupted: Arc<AtomicBool>,
    readings: Readings,
    congestion_controls: BTreeSet<String>,
    remarks: Vec<String>,
}

impl Run {
    fn measure(&mut self, scenarios: &[Scenario]) -> Result<()> {
        let (direct, sealwire) = (Site::direct()?, Site::sealwire()?);
        for round in 0..self.rounds {
            // A drift of the machine favours neither.
            let mut routes = [(Route::Direct, &direct), (Route::Sealwire, &sealwire)];
            if round % 2 == 1 {
                routes.reverse();
            }
            for &scenario in scenarios {
                for (route, site) in routes {
                    if route == Route::Sealwire || scenario.has_direct() {
                        self.attempt(round, scenario, route, site)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn attempt(&mut self, round: u32, scenario: Scenario, route: Route, site: &Site) -> Result<()> {
        let name = scenario.name();
        let trial = scenario.run(site, Duration::from_secs(self.seconds));
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        let Trial {
            readings,
            congestion_controls,
            remarks,
        } = trial.with_context(|| format!("{name}, {route:?}"))?;
        eprintln!(
            "round {} of {}: {name}, {route:?}: {}",
            round + 1,
            self.rounds,
            readings.first().map_or_else(String::new, |reading| format!(
                "{:.1} {}",
                reading.value, reading.quantity.unit
            ))
        );
        self.readings.add(&name, route, &readings);
        self.congestion_controls.extend(congestion_controls);
        for remark in remarks {
            let remark = format!("{name}, {route:?}: {remark}");
            if !self.remarks.contains(&remark) {
                self.remarks.push(remark);
            }
        }
        Ok(())
    }

    fn report(self, suite: Suite, machine: Machine) -> Report {
        let suite = suite.as_str();
        let Self {
            rounds, seconds, ..
        } = self;
        Report {
            command: format!("bench {suite} --rounds {rounds} --seconds {seconds}"),
            machine,
            rounds,
            seconds,
            congestion_controls: self.congestion_controls,
            remarks: self.remarks,
            figures: self.readings.figures(),
        }
    }
}

fn write(path: &PathBuf, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
