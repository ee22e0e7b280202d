//! Bytes in bulk, with iperf3.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::cost::Meter;
use crate::figure::{Quantity, Work};
use crate::scenario::Trial;
use crate::site::Site;

/// Streams in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bulk {
    /// How many at once.
    pub streams: u32,
    /// Who sends.
    pub direction: Direction,
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The client.
    Up,
    /// The server.
    Down,
}

impl Bulk {
    pub(crate) fn run(self, site: &Site, duration: Duration) -> Result<Trial> {
        let serving = site
            .server()
            .command("iperf3")
            .args(["-s", "-1", "--forceflush"])
            .spawn()?;
        serving.wait_for(LIMIT, |line| line.contains("listening").then_some(()))?;

        let meter = Meter::start(site.agents())?;
        let sending = site
            .client()
            .command("iperf3")
            .args(["-J", "-c", &site.server().v4().to_string()])
            .args(["-t", &duration.as_secs().to_string()])
            .args(["-P", &self.streams.to_string()])
            .args((self.direction == Direction::Down).then_some("-R"))
            .spawn()?;
        thread::sleep(duration / 2);
        let congestion_controls = congestion_controls(site)?;
        let finished = sending.wait(duration + LIMIT)?;
        let cost = meter.stop()?;

        let transfer = Transfer::parse(&finished.text())?;
        let mut readings = vec![THROUGHPUT.of(transfer.bits_per_second / 1e9)];
        readings.extend(Work::Bytes(transfer.bytes).costs(&cost));
        Ok(Trial {
            readings,
            congestion_controls,
            remarks: Vec::new(),
        })
    }
}

/// What iperf3's receiver received, over all streams.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Transfer {
    bytes: u64,
    bits_per_second: f64,
}

impl Transfer {
    /// Reads the output of `iperf3 --json`.
    fn parse(json: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Report {
            error: Option<String>,
            end: End,
        }
        #[derive(Deserialize)]
        struct End {
            sum_received: Option<Transfer>,
        }
        let report: Report =
            serde_json::from_str(json).with_context(|| format!("iperf3's report: {json}"))?;
        if let Some(error) = report.error {
            bail!("iperf3: {error}");
        }
        let transfer = report.end.sum_received.context("iperf3 has no sum")?;
        if transfer.bytes == 0 {
            bail!("iperf3 received nothing");
        }
        Ok(transfer)
    }
}

/// The congestion controls of the sockets that are connected at present, of agents and programs.
fn congestion_controls(site: &Site) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for host in [site.client(), site.server()] {
        let sockets = host
            .command("ss")
            .args(["-H", "-t", "-i", "-n"])
            .run(LIMIT)?
            .success()?
            .text();
        found.extend(parse_congestion_controls(&sockets));
    }
    Ok(found)
}

/// Reads the output of `ss -tin`, whose indented lines have the congestion control's name first,
/// after words for TCP options.
fn parse_congestion_controls(sockets: &str) -> impl Iterator<Item = String> + '_ {
    sockets
        .lines()
        .filter(|line| line.starts_with(char::is_whitespace))
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| !OPTIONS.contains(word))
                .map(str::to_owned)
        })
}

pub(crate) const THROUGHPUT: Quantity = Quantity::more("throughput", "Gbit/s");

const LIMIT: Duration = Duration::from_secs(15);
const OPTIONS: [&str; 5] = ["ts", "sack", "ecn", "ecnseen", "fastopen"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_sum_is_the_throughput() {
        let transfer = Transfer::parse(
            r#"{"start": {"connected": [{"socket": 5}]}, "intervals": [], "end": {
                "streams": [{"sender": {"bytes": 3}, "receiver": {"bytes": 2}}],
                "sum_sent": {"seconds": 5.0, "bytes": 99, "bits_per_second": 158.4, "retransmits": 0},
                "sum_received": {"start": 0, "seconds": 5.001, "bytes": 98, "bits_per_second": 156.5,
                                 "sender": true},
                "cpu_utilization_percent": {"host_total": 88.0}}}"#,
        )
        .unwrap();
        assert_eq!(
            transfer,
            Transfer {
                bytes: 98,
                bits_per_second: 156.5
            }
        );
    }

    #[test]
    fn a_failed_transfer_is_no_figure() {
        let refused = r#"{"start": {}, "end": {}, "error": "unable to connect to server"}"#;
        let error = Transfer::parse(refused).unwrap_err().to_string();
        assert_eq!(error, "iperf3: unable to connect to server");
        let empty = r#"{"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}}"#;
        assert!(Transfer::parse(empty).is_err());
        assert!(Transfer::parse(r#"{"end": {}}"#).is_err());
        assert!(Transfer::parse("").is_err());
    }

    #[test]
    fn congestion_controls_are_read_from_the_lines_of_details() {
        let sockets = "ESTAB 0 0 10.77.0.1:5201 10.77.0.2:40000\n\
                       \t ts sack cubic wscale:9,9 rto:201 mss:1448\n\
                       ESTAB 0 0 127.0.0.1:1 127.0.0.1:2\n\
                       \t bbr wscale:9,9 bbr:(bw:1bps)\n";
        let found: Vec<_> = parse_congestion_controls(sockets).collect();
        assert_eq!(found, ["cubic", "bbr"]);
    }
}
