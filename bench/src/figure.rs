//! A figure: what was measured, in which unit, which way is better.

use serde::Serialize;

use crate::cost::Cost;

/// What one number of a trial is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Quantity {
    /// As a person would call it; unique within a scenario.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// A quantity with its value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    /// What it is.
    pub quantity: Quantity,
    /// How much, in the quantity's unit.
    pub value: f64,
}

/// What was done in a trial, for costs to be told by its amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// So many bytes went from one program to the other.
    Bytes(u64),
    /// So many requests were answered.
    Requests(u64),
    /// So many connections were opened, used once and closed.
    Connections(u64),
}

impl Quantity {
    /// A quantity of which more is better.
    pub(crate) const fn more(name: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            better: Better::Higher,
        }
    }

    /// A quantity of which less is better.
    pub(crate) const fn less(name: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            better: Better::Lower,
        }
    }

    /// This quantity with a value.
    pub(crate) const fn of(self, value: f64) -> Reading {
        Reading {
            quantity: self,
            value,
        }
    }
}

impl Work {
    /// A cost as readings for each unit of the work.
    pub(crate) fn costs(self, cost: &Cost) -> Vec<Reading> {
        let (unit, scale) = match self {
            Self::Bytes(bytes) => ("s/GB", 1e9 / bytes as f64),
            Self::Requests(requests) => ("us/request", 1e6 / requests as f64),
            Self::Connections(connections) => ("us/conn", 1e6 / connections as f64),
        };
        let mut readings = Vec::new();
        if let Some(agents) = cost.agents {
            let cpu = |name, seconds| Quantity::less(name, unit).of(seconds * scale);
            readings.extend([
                cpu(AGENTS_CPU, agents.client + agents.server),
                cpu(CLIENT_AGENT_CPU, agents.client),
                cpu(SERVER_AGENT_CPU, agents.server),
            ]);
        }
        readings.extend([
            Quantity::less(MACHINE_CPU, unit).of(cost.machine * scale),
            Quantity::less("machine busy", "%").of(cost.busy * 100.0),
        ]);
        readings
    }
}

pub(crate) const AGENTS_CPU: &str = "CPU of both agents";
pub(crate) const CLIENT_AGENT_CPU: &str = "CPU of the client's agent";
pub(crate) const SERVER_AGENT_CPU: &str = "CPU of the server's agent";
pub(crate) const MACHINE_CPU: &str = "CPU of the machine";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Sides;

    #[test]
    fn costs_are_told_for_each_unit_of_work() {
        let cost = Cost {
            agents: Some(Sides {
                client: 1.0,
                server: 3.0,
            }),
            machine: 8.0,
            busy: 0.5,
        };
        let values = |work: Work, cost| -> Vec<f64> {
            let readings = work.costs(cost);
            readings.iter().map(|reading| reading.value).collect()
        };
        let bulk = values(Work::Bytes(2_000_000_000), &cost);
        assert_eq!(bulk, [2.0, 0.5, 1.5, 4.0, 50.0]);
        let requests = values(Work::Requests(1_000_000), &cost);
        assert_eq!(requests, [4.0, 1.0, 3.0, 8.0, 50.0]);
        let direct = Cost {
            agents: None,
            ..cost
        };
        assert_eq!(values(Work::Connections(8), &direct), [1e6, 50.0]);
    }
}
