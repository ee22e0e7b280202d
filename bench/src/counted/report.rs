//! The figures of a run, for machines and for people.

use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::route::Route;
use crate::machine::Machine;
use crate::statistics::Rounds;

/// All routes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What figures depend on beside the code.
    pub(crate) environment: Environment,
    /// Requests a round.
    pub(crate) requests: u32,
    /// MiB a round.
    pub(crate) mebibytes: u32,
    /// A figure each route.
    pub(crate) figures: Vec<Figure>,
}

/// What figures depend on beside the code. Figures of two environments are not compared.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Compiler and emulator.
    pub(crate) outside: String,
}

/// The costs of one route, in nanoseconds of the machine's clock: instructions, where it counts
/// them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// The route.
    pub(crate) route: Route,
    /// Of a request of 1 KiB and its answer of 1 KiB.
    pub(crate) request: Rounds,
    /// Of a MiB.
    pub(crate) mebibyte: Rounds,
    /// The share of the time in which the CPU was busy; the rest is nobody's cost.
    pub(crate) busy: f64,
}

impl Environment {
    pub(crate) fn read(outside: &str) -> Result<Self> {
        Ok(Self {
            kernel: Machine::read()?.kernel,
            outside: outside.to_owned(),
        })
    }
}

impl Report {
    /// The figure of a route.
    pub(crate) fn figure(&self, route: Route) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.route == route)
    }

    /// A table in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut table = String::from(
            "| route | request, k | x direct | spread | MiB, M | x direct | spread | busy |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        let direct = self.figure(Route::Direct);
        for figure in &self.figures {
            let Figure {
                route,
                request,
                mebibyte,
                busy,
            } = figure;
            let times = |of: fn(&Figure) -> &Rounds| {
                direct.map_or(f64::NAN, |direct| of(figure).median / of(direct).median)
            };
            let _ = writeln!(
                table,
                "| {} | {:.1} | {:.2} | {:.2} % | {:.2} | {:.2} | {:.2} % | {:.0} % |",
                route.name(),
                request.median / 1e3,
                times(|figure| &figure.request),
                request.spread() * 100.0,
                mebibyte.median / 1e6,
                times(|figure| &figure.mebibyte),
                mebibyte.spread() * 100.0,
                busy * 100.0,
            );
        }
        table
    }
}
