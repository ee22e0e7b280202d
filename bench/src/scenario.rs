//! What can be measured, and what a trial of it gives.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

use crate::bulk::{Bulk, Direction};
use crate::connections::Connections;
use crate::figure::Reading;
use crate::idle::Idle;
use crate::requests::Requests;
use crate::site::Site;

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    Bulk,
    Requests,
    Connections,
    Idle,
    /// All of them.
    All,
}

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    Bulk(Bulk),
    Requests(Requests),
    Connections(Connections),
    Idle(Idle),
}

/// What one run of a scenario gave.
#[derive(Debug)]
pub(crate) struct Trial {
    /// The numbers.
    pub readings: Vec<Reading>,
    /// Congestion controls that were seen on its sockets, where it looked.
    pub congestion_controls: BTreeSet<String>,
    /// What a reader of the numbers must know.
    pub remarks: Vec<String>,
}

impl Suite {
    /// Its word on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Idle => "idle",
            Self::All => "all",
        }
    }

    /// Its scenarios, with this many idle connections.
    pub(crate) fn scenarios(self, idle: usize) -> Vec<Scenario> {
        match self {
            Self::Bulk => [1, 8]
                .into_iter()
                .flat_map(|streams| {
                    [Direction::Up, Direction::Down]
                        .map(|direction| Scenario::Bulk(Bulk { streams, direction }))
                })
                .collect(),
            Self::Requests => [1, 16, 128]
                .map(|connections| Scenario::Requests(Requests { connections }))
                .to_vec(),
            Self::Connections => [
                Connections::Churn { clients: 16 },
                Connections::Churn { clients: 64 },
                Connections::OneByOne,
            ]
            .map(Scenario::Connections)
            .to_vec(),
            Self::Idle => vec![Scenario::Idle(Idle { connections: idle })],
            Self::All => [Self::Bulk, Self::Requests, Self::Connections, Self::Idle]
                .into_iter()
                .flat_map(|suite| suite.scenarios(idle))
                .collect(),
        }
    }
}

impl Scenario {
    /// What it is called in reports.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Bulk(Bulk { streams, direction }) => {
                let direction = match direction {
                    Direction::Up => "up",
                    Direction::Down => "down",
                };
                format!("bulk, {}, {direction}", counted(streams, "stream"))
            }
            Self::Requests(Requests { connections }) => {
                format!("requests, {}", counted(connections, "connection"))
            }
            Self::Connections(Connections::Churn { clients }) => {
                format!("connections, {}", counted(clients, "client"))
            }
            Self::Connections(Connections::OneByOne) => "connections, one after another".to_owned(),
            Self::Idle(_) => "idle connections".to_owned(),
        }
    }

    /// Whether it says something without agents too.
    pub(crate) fn has_direct(self) -> bool {
        !matches!(self, Self::Idle(_))
    }

    /// Runs it once; [`Self::Idle`] on a site of its own.
    pub(crate) fn run(self, site: &Site, duration: Duration) -> Result<Trial> {
        match self {
            Self::Bulk(bulk) => bulk.run(site, duration),
            Self::Requests(requests) => requests.run(site, duration),
            Self::Connections(connections) => connections.run(site, duration),
            Self::Idle(idle) => idle.run(),
        }
    }
}

fn counted(number: u32, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_every_suite_and_names_are_unique() {
        let names: Vec<_> = Suite::All
            .scenarios(10)
            .into_iter()
            .map(Scenario::name)
            .collect();
        assert_eq!(names.len(), 4 + 3 + 3 + 1);
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert_eq!(names[0], "bulk, 1 stream, up");
        assert_eq!(names[5], "requests, 16 connections");
    }
}
