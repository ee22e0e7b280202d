//! The best of Envoy, `HAProxy`, nginx, stunnel and ztunnel, figure by figure, measured on another
//! machine on another day: for orientation, never for a ratio.
//!
//! Two-hop mutual TLS on two cores of kernel 6.18 with cubic, as here; TLS 1.3, X25519,
//! AES-128-GCM (ztunnel: AES-256-GCM), full handshakes except where ztunnel pools.

use serde::Serialize;

use crate::{bulk, connections, figure, idle, requests};

/// A rival's figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Rival {
    /// Whose, and in which configuration.
    pub name: &'static str,
    /// In the figure's unit.
    pub value: f64,
    /// What direct gave in that run, where it gave something.
    pub direct: Option<f64>,
}

/// The best rival's figure for a scenario's quantity.
pub(crate) fn best(scenario: &str, quantity: &str) -> Option<Rival> {
    BEST.iter()
        .find(|(of, what, ..)| (*of, *what) == (scenario, quantity))
        .map(|&(_, _, name, value, direct)| Rival {
            name,
            value,
            direct,
        })
}

const BULK_1_UP: &str = "bulk, 1 stream, up";
const BULK_1_DOWN: &str = "bulk, 1 stream, down";
const BULK_8_UP: &str = "bulk, 8 streams, up";
const BULK_8_DOWN: &str = "bulk, 8 streams, down";
const REQUESTS_1: &str = "requests, 1 connection";
const REQUESTS_16: &str = "requests, 16 connections";
const REQUESTS_128: &str = "requests, 128 connections";
const CHURN_16: &str = "connections, 16 clients";
const CHURN_64: &str = "connections, 64 clients";
const ONE_BY_ONE: &str = "connections, one after another";
const IDLE: &str = "idle connections";

const ENVOY_1: &str = "Envoy 1.40, 1 worker";
const ENVOY_2: &str = "Envoy 1.40, 2 workers";
const HAPROXY: &str = "HAProxy 2.6";
const STUNNEL: &str = "stunnel 5.68";
const POOLED: &str = "ztunnel, pooled";
const UNPOOLED: &str = "ztunnel, unpooled";

/// Where ztunnel's pool avoids the handshake or the connection that is being measured, the best of
/// the others (pooled: 9,310 and 12,010 connections a second, 368 us, 4.9 and 4.8 KiB).
#[rustfmt::skip]
const BEST: [(&str, &str, &str, f64, Option<f64>); 25] = [
    (BULK_1_UP, bulk::THROUGHPUT.name, ENVOY_1, 17.0, Some(66.7)),
    (BULK_1_UP, figure::AGENTS_CPU, ENVOY_2, 0.75, None),
    (BULK_1_UP, figure::MACHINE_CPU, ENVOY_1, 0.92, Some(0.21)),
    (BULK_1_DOWN, bulk::THROUGHPUT.name, ENVOY_2, 15.6, Some(70.7)),
    (BULK_8_UP, bulk::THROUGHPUT.name, ENVOY_2, 12.8, Some(49.0)),
    (BULK_8_DOWN, bulk::THROUGHPUT.name, ENVOY_2, 14.0, Some(53.0)),
    (REQUESTS_1, requests::RATE.name, STUNNEL, 9_350.0, Some(16_100.0)),
    (REQUESTS_1, requests::P50.name, STUNNEL, 104.0, Some(75.0)),
    (REQUESTS_16, requests::RATE.name, UNPOOLED, 60_600.0, Some(206_000.0)),
    (REQUESTS_16, requests::P50.name, UNPOOLED, 227.0, Some(61.0)),
    (REQUESTS_16, figure::AGENTS_CPU, UNPOOLED, 22.3, None),
    (REQUESTS_128, requests::RATE.name, POOLED, 66_300.0, Some(214_000.0)),
    (REQUESTS_128, requests::P50.name, POOLED, 1659.0, Some(287.0)),
    (REQUESTS_128, requests::P99.name, POOLED, 4_100.0, Some(644.0)),
    (REQUESTS_128, figure::AGENTS_CPU, POOLED, 19.4, None),
    (CHURN_16, connections::RATE.name, ENVOY_1, 2_500.0, Some(36_100.0)),
    (CHURN_16, figure::AGENTS_CPU, ENVOY_1, 642.0, None),
    (CHURN_16, figure::CLIENT_AGENT_CPU, ENVOY_1, 318.0, None),
    (CHURN_16, figure::SERVER_AGENT_CPU, ENVOY_1, 324.0, None),
    (CHURN_64, connections::RATE.name, ENVOY_1, 2_900.0, Some(34_300.0)),
    (ONE_BY_ONE, connections::FIRST_BYTE_P50.name, ENVOY_1, 900.0, Some(75.0)),
    (IDLE, idle::CLIENT_PRIVATE.name, ENVOY_1, 27.6, None),
    (IDLE, idle::SERVER_PRIVATE.name, HAPROXY, 23.4, None),
    (IDLE, idle::CLIENT_BASE.name, STUNNEL, 2.4, None),
    (IDLE, idle::SERVER_BASE.name, STUNNEL, 2.4, None),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Scenario, Suite};

    #[test]
    fn every_entry_is_of_a_scenario_that_exists() {
        let names: Vec<_> = Suite::All
            .scenarios(1)
            .into_iter()
            .map(Scenario::name)
            .collect();
        for (scenario, ..) in BEST {
            assert!(names.iter().any(|name| name == scenario), "{scenario}");
        }
    }

    #[test]
    fn a_rival_is_found_by_scenario_and_quantity() {
        let rival = best("requests, 16 connections", "requests").unwrap();
        assert_eq!(rival.name, "ztunnel, unpooled");
        assert_eq!(best("requests, 16 connections", "throughput"), None);
    }
}
