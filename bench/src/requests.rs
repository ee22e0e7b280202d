//! Requests on connections that stay open, with wrk.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cost::Meter;
use crate::figure::{Quantity, Work};
use crate::nginx::Nginx;
use crate::scenario::Trial;
use crate::site::Site;

/// Each of some connections asks for the page again as soon as it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Requests {
    /// How many connections.
    pub connections: u32,
}

impl Requests {
    pub(crate) fn run(self, site: &Site, duration: Duration) -> Result<Trial> {
        let nginx = Nginx::start(site)?;

        let meter = Meter::start(site.agents())?;
        let finished = site
            .client()
            .command("wrk")
            .args(["--latency", "--timeout", "10s", "--threads", "1"])
            .arg(format!("--connections={}", self.connections))
            .arg(format!("--duration={}s", duration.as_secs()))
            .arg(format!("http://{}/", nginx.address()))
            .run(duration + LIMIT)?
            .success()?;
        let cost = meter.stop()?;
        nginx.stop()?;

        let output = finished.text();
        let summary = Summary::parse(&output).with_context(|| format!("wrk said: {output}"))?;
        let mut readings = vec![
            RATE.of(summary.rate),
            P50.of(summary.p50),
            P99.of(summary.p99),
        ];
        readings.extend(Work::Requests(summary.requests).costs(&cost));
        Ok(Trial {
            readings,
            congestion_controls: BTreeSet::new(),
            remarks: summary.errors.into_iter().collect(),
        })
    }
}

/// What wrk says in the end.
#[derive(Debug, Clone, PartialEq)]
struct Summary {
    requests: u64,
    /// Requests a second.
    rate: f64,
    /// Microseconds.
    p50: f64,
    /// Microseconds.
    p99: f64,
    /// Its line about errors, if there were any.
    errors: Option<String>,
}

impl Summary {
    /// Reads the output of `wrk --latency`.
    fn parse(output: &str) -> Result<Self> {
        let after = |label: &str| {
            output
                .lines()
                .find_map(|line| line.trim().strip_prefix(label))
                .map(str::trim)
                .with_context(|| format!("no line {label:?}"))
        };
        let requests = output
            .lines()
            .find_map(|line| line.split_once(" requests in "))
            .context("no number of requests")?
            .0
            .trim()
            .parse()?;
        ensure!(requests > 0, "no request was answered");
        ensure!(
            after("Non-2xx or 3xx responses:").is_err(),
            "not every answer was the page"
        );
        Ok(Self {
            requests,
            rate: after("Requests/sec:")?.parse()?,
            p50: microseconds(after("50%")?)?,
            p99: microseconds(after("99%")?)?,
            errors: after("Socket errors:")
                .ok()
                .map(|errors| format!("wrk's socket errors: {errors}")),
        })
    }
}

/// A duration as wrk prints it: `61.00us`, `2.58ms`, `1.20s`, `1.00m`.
fn microseconds(text: &str) -> Result<f64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let scale = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => anyhow::bail!("no duration: {text:?}"),
    };
    let number: f64 = text[..text.len() - unit.len()].parse()?;
    Ok(number * scale)
}

pub(crate) const RATE: Quantity = Quantity::more("requests", "1/s");
pub(crate) const P50: Quantity = Quantity::less("p50", "us");
pub(crate) const P99: Quantity = Quantity::less("p99", "us");

const LIMIT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
Running 5s test @ http://10.77.0.2:8080/
  2 threads and 128 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.31ms    1.99ms  64.20ms   95.50%
    Req/Sec    30.31k     2.20k   35.00k    68.00%
  Latency Distribution
     50%  987.00us
     75%    2.58ms
     90%    3.99ms
     99%    1.20s 
  301234 requests in 5.01s, 354.12MB read
Requests/sec:  60126.55
Transfer/sec:     70.68MB
";

    #[test]
    fn a_summary_has_rate_and_latencies() {
        let summary = Summary::parse(OUTPUT).unwrap();
        assert_eq!(
            summary,
            Summary {
                requests: 301_234,
                rate: 60_126.55,
                p50: 987.0,
                p99: 1_200_000.0,
                errors: None,
            }
        );
    }

    #[test]
    fn errors_on_sockets_are_remarked() {
        let errors = "  Socket errors: connect 0, read 3, write 0, timeout 1\nRequests/sec:";
        let summary = Summary::parse(&OUTPUT.replace("Requests/sec:", errors)).unwrap();
        assert_eq!(
            summary.errors.unwrap(),
            "wrk's socket errors: connect 0, read 3, write 0, timeout 1"
        );
    }

    #[test]
    fn other_answers_than_the_page_are_no_figure() {
        let other = "  Non-2xx or 3xx responses: 7\nRequests/sec:";
        assert!(Summary::parse(&OUTPUT.replace("Requests/sec:", other)).is_err());
        assert!(Summary::parse(&OUTPUT.replace("301234 requests", "0 requests")).is_err());
        assert!(Summary::parse("unable to connect to 10.77.0.2:8080").is_err());
    }

    #[test]
    fn durations_are_in_wrks_units() {
        assert_eq!(microseconds("61.00us").ok(), Some(61.0));
        assert_eq!(microseconds("2.58ms").ok(), Some(2580.0));
        assert_eq!(microseconds("1.00m").ok(), Some(60e6));
        assert!(microseconds("5").is_err() && microseconds("nan").is_err());
    }
}
