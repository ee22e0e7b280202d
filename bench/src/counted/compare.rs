//! This commit's figures against those that are committed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::report::Report;
use super::route::Route;

/// What to compare.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Figures that were measured now
    figures: PathBuf,

    /// Figures to compare them with
    baseline: PathBuf,
}

/// Compares the requests of every route; bulk is shown by the table alone, as copies are counted
/// differently from one processor to the next.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (now, baseline) = (read(&options.figures)?, read(&options.baseline)?);
    if now.environment != baseline.environment {
        eprintln!(
            "not comparable: measured on {:?}, the baseline on {:?}; `cargo xtask bench counted --update` makes a new one",
            now.environment, baseline.environment
        );
        process::exit(NOT_COMPARABLE);
    }
    let changes = changes(&now, &baseline);
    for change in &changes {
        println!("{change}");
    }
    if changes.iter().any(Change::is_too_dear) {
        bail!(
            "a request has become dearer by more than {} %; where that is meant, run `cargo xtask bench counted --update` and say why in the commit",
            LIMIT * 100.0
        );
    }
    Ok(())
}

fn read(path: &Path) -> Result<Report> {
    let text =
        fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} has no figures", path.display()))
}

/// What became of one route.
#[derive(Debug, PartialEq)]
struct Change {
    route: Route,
    /// As a share of the baseline; none where one of the two lacks the route.
    rise: Option<f64>,
}

impl Change {
    /// A route that is gone, or has come without a baseline, must be said too.
    fn is_too_dear(&self) -> bool {
        self.rise.is_none_or(|rise| rise > LIMIT)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.route.name();
        match self.rise {
            Some(rise) => write!(f, "{name}: {:+.2} % a request", rise * 100.0),
            None => write!(f, "{name}: only in one of the two"),
        }
    }
}

fn changes(now: &Report, baseline: &Report) -> Vec<Change> {
    let medians = |route| {
        let median = |report: &Report| report.figure(route).map(|figure| figure.request.median);
        (median(now), median(baseline))
    };
    Route::ALL
        .into_iter()
        .filter_map(|route| match medians(route) {
            (None, None) => None,
            (now, before) => Some(Change {
                route,
                rise: now.zip(before).map(|(now, before)| now / before - 1.0),
            }),
        })
        .collect()
}

/// How much dearer a request may become unnoticed. The counted clock repeats to 0.3 %.
const LIMIT: f64 = 0.02;

const NOT_COMPARABLE: i32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counted::report::{Environment, Figure};
    use crate::statistics::Rounds;

    fn report(requests: &[(Route, f64)]) -> Report {
        let rounds = |value| Rounds::of(vec![value]).unwrap();
        Report {
            environment: Environment {
                kernel: "6.12".to_owned(),
                outside: "here".to_owned(),
            },
            requests: 1,
            mebibytes: 1,
            figures: requests
                .iter()
                .map(|&(route, request)| Figure {
                    route,
                    request: rounds(request),
                    mebibyte: rounds(1.0),
                    busy: 1.0,
                })
                .collect(),
        }
    }

    #[test]
    fn a_request_may_become_cheaper_and_a_little_dearer() {
        let baseline = report(&[(Route::Direct, 100.0), (Route::Userspace, 1000.0)]);
        let now = report(&[(Route::Direct, 90.0), (Route::Userspace, 1019.0)]);
        let changes = changes(&now, &baseline);
        assert_eq!(changes.len(), 2);
        assert!(!changes.iter().any(Change::is_too_dear), "{changes:?}");
    }

    #[test]
    fn three_percent_more_is_too_dear() {
        let baseline = report(&[(Route::Userspace, 1000.0)]);
        let now = report(&[(Route::Userspace, 1030.0)]);
        let changes = changes(&now, &baseline);
        assert!(changes[0].is_too_dear());
        assert_eq!(changes[0].to_string(), "userspace: +3.00 % a request");
    }

    #[test]
    fn a_route_that_is_gone_is_no_success() {
        let baseline = report(&[(Route::Direct, 1.0), (Route::KernelBoth, 1.0)]);
        let changes = changes(&report(&[(Route::Direct, 1.0)]), &baseline);
        assert!(changes[1].is_too_dear());
    }
}
