//! What an agent says of itself over HTTP: readiness, metrics, connections.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// The answer to a GET.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// GETs `path` from a port of the loopback.
    pub fn fetch(port: u16, path: &str) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut connection = TcpStream::connect_timeout(&address, LIMIT)?;
        connection.set_read_timeout(Some(LIMIT))?;
        write!(
            connection,
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let body = if head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked")
        {
            dechunk(body)
        } else {
            body.to_owned()
        };
        Ok(Self { status, body })
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body))
    }
}

/// A snapshot of an agent's metrics.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: u64,
}

impl Metrics {
    /// Parses the text format of Prometheus. Samples that are not whole numbers are left out.
    pub fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(sample)
                .collect(),
        )
    }

    /// The sum of the samples of this name that have all these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| {
                    sample
                        .labels
                        .get(*label)
                        .is_some_and(|actual| actual == value)
                })
        };
        self.0.iter().filter(has).map(|sample| sample.value).sum()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels
        .trim_end_matches('}')
        .split(',')
        .filter_map(|label| label.split_once('='))
        .map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.trim_end_matches(".0").parse().ok()?,
    })
}

fn dechunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        whole += rest.get(..size).unwrap_or(rest);
        body = rest.get(size + 2..).unwrap_or("");
    }
    whole
}

const LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_their_labels() {
        let metrics = Metrics::parse(
            "# TYPE refusals counter\n\
             refusals_total{workload=\"a\",reason=\"x\"} 2\n\
             refusals_total{workload=\"b\",reason=\"x\"} 3\n\
             refusals_total{workload=\"b\",reason=\"y\"} 4\n\
             entries 7\n",
        );
        let sum = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels);
        assert_eq!(sum("refusals_total", &[("reason", "x")]), 5);
        assert_eq!(
            sum("refusals_total", &[("reason", "x"), ("workload", "b")]),
            3
        );
        assert_eq!(sum("refusals_total", &[("reason", "z")]), 0);
        assert_eq!(sum("entries", &[]), 7);
    }
}
