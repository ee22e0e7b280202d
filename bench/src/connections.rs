//! New connections: how many a second, and how long one takes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use serde::de::DeserializeOwned;

use crate::cost::Meter;
use crate::figure::{Quantity, Work};
use crate::load::{Churned, Timed};
use crate::nginx::Nginx;
use crate::scenario::Trial;
use crate::site::Site;

/// Connections that fetch one page each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    /// As fast as so many clients can.
    Churn { clients: u32 },
    /// One after another.
    OneByOne,
}

impl Connections {
    pub(crate) fn run(self, site: &Site, duration: Duration) -> Result<Trial> {
        let nginx = Nginx::start(site)?;
        let address = nginx.address().to_string();
        let seconds = duration.as_secs().to_string();
        let clients;
        let arguments = match self {
            Self::Churn { clients: many } => {
                clients = many.to_string();
                vec!["churn", &address, &clients, &seconds]
            }
            Self::OneByOne => vec!["one-by-one", &address, &seconds],
        };

        let meter = Meter::start(site.agents())?;
        let said = Site::load(site.client())?
            .args(arguments)
            .run(duration + LIMIT)?
            .success()?
            .text();
        let cost = meter.stop()?;
        nginx.stop()?;

        let mut remarks = Vec::new();
        let (work, mut readings) = match self {
            Self::Churn { .. } => {
                let churned: Churned = parse(&said)?;
                if churned.failures > 0 {
                    remarks.push(format!(
                        "{} of {} connections failed",
                        churned.failures,
                        churned.failures + churned.pages
                    ));
                }
                let rate = churned.pages as f64 / duration.as_secs_f64();
                (churned.pages, vec![RATE.of(rate)])
            }
            Self::OneByOne => {
                let timed: Timed = parse(&said)?;
                let readings = vec![FIRST_BYTE_P50.of(timed.p50), FIRST_BYTE_P99.of(timed.p99)];
                (timed.connections, readings)
            }
        };
        readings.extend(Work::Connections(work).costs(&cost));
        Ok(Trial {
            readings,
            congestion_controls: BTreeSet::new(),
            remarks,
        })
    }
}

fn parse<T: DeserializeOwned>(said: &str) -> Result<T> {
    Ok(serde_json::from_str(said)?)
}

pub(crate) const RATE: Quantity = Quantity::more("new connections", "1/s");
pub(crate) const FIRST_BYTE_P50: Quantity = Quantity::less("connect to first byte, p50", "us");
pub(crate) const FIRST_BYTE_P99: Quantity = Quantity::less("connect to first byte, p99", "us");

/// More than a client waits for its last answer.
const LIMIT: Duration = Duration::from_secs(40);
