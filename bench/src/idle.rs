//! Connections that are open and carry nothing: what they cost an agent in memory.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use testbed::Running;

use crate::figure::Quantity;
use crate::load::Held;
use crate::scenario::Trial;
use crate::site::{Sides, Site};

/// Many idle connections, of agents that have just started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Idle {
    /// How many, if the limits allow.
    pub connections: usize,
}

impl Idle {
    pub(crate) fn run(self) -> Result<Trial> {
        let site = Site::sealwire()?;
        let agents = site.agents().context("a site without agents")?;
        let connections = [agents.client, agents.server]
            .into_iter()
            .map(connection_limit)
            .try_fold(self.connections, |least, limit| {
                anyhow::Ok(least.min(limit?))
            })?;

        // What is made on first use, is made.
        drop(Holding::start(&site, WARM_UP)?);
        thread::sleep(SETTLE);

        let before = agents.try_map(Memory::of)?;
        let _holding = Holding::start(&site, connections)?;
        thread::sleep(SETTLE);
        let after = agents.try_map(Memory::of)?;

        let kibibytes =
            |before: u64, after: u64| (after as f64 - before as f64) / connections as f64;
        let private = Sides {
            client: kibibytes(before.client.private, after.client.private),
            server: kibibytes(before.server.private, after.server.private),
        };
        let proportional = Sides {
            client: kibibytes(before.client.proportional, after.client.proportional),
            server: kibibytes(before.server.proportional, after.server.proportional),
        };
        Ok(Trial {
            readings: vec![
                OPEN.of(connections as f64),
                CLIENT_PRIVATE.of(private.client),
                SERVER_PRIVATE.of(private.server),
                Quantity::less("PSS, client's agent", PER_CONNECTION).of(proportional.client),
                Quantity::less("PSS, server's agent", PER_CONNECTION).of(proportional.server),
                CLIENT_BASE.of(before.client.private as f64 / 1024.0),
                SERVER_BASE.of(before.server.private as f64 / 1024.0),
            ],
            congestion_controls: BTreeSet::new(),
            remarks: (connections < self.connections)
                .then(|| {
                    format!(
                        "{connections} idle connections instead of {}: an agent's limit of open \
                         files allows no more",
                        self.connections
                    )
                })
                .into_iter()
                .collect(),
        })
    }
}

/// Connections that are open until it is dropped.
#[derive(Debug)]
struct Holding {
    _client: Running,
    _server: Running,
}

impl Holding {
    fn start(site: &Site, connections: usize) -> Result<Self> {
        let address = site.server().at(PORT).to_string();
        let server = Site::load(site.server())?
            .args(["accept", &address])
            .spawn()?;
        server.wait_for(LIMIT, |line| line.contains("listening").then_some(()))?;
        let client = Site::load(site.client())?
            .args(["hold", &address, &connections.to_string()])
            .with_stdin()
            .spawn()?;
        let held: Held = client.wait_for(LIMIT, |line| serde_json::from_str(line).ok())?;
        ensure!(held.open == connections, "only {} are open", held.open);
        Ok(Self {
            _client: client,
            _server: server,
        })
    }
}

/// The memory of a process, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    private: u64,
    proportional: u64,
}

impl Memory {
    fn of(pid: Pid) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let rollup = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        Self::parse(&rollup).with_context(|| format!("{path} lacks a field"))
    }

    fn parse(rollup: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            rollup
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_suffix(" kB"))?
                .trim()
                .parse()
                .ok()
        };
        Some(Self {
            private: field("Private_Clean:")? + field("Private_Dirty:")?,
            proportional: field("Pss:")?,
        })
    }
}

/// How many connections a process can proxy, at two files each.
fn connection_limit(pid: Pid) -> Result<usize> {
    let path = format!("/proc/{pid}/limits");
    let limits = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let files = parse_file_limit(&limits).with_context(|| format!("{path} has no open files"))?;
    Ok(files.saturating_sub(OTHER_FILES) / 2)
}

fn parse_file_limit(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

const PER_CONNECTION: &str = "KiB/conn";
const OPEN: Quantity = Quantity::more("open at once", "conns");
pub(crate) const CLIENT_PRIVATE: Quantity =
    Quantity::less("private memory, client's agent", PER_CONNECTION);
pub(crate) const SERVER_PRIVATE: Quantity =
    Quantity::less("private memory, server's agent", PER_CONNECTION);
pub(crate) const CLIENT_BASE: Quantity =
    Quantity::less("private without connections, client's agent", "MiB");
pub(crate) const SERVER_BASE: Quantity =
    Quantity::less("private without connections, server's agent", "MiB");

const PORT: u16 = 9000;
const WARM_UP: usize = 64;
const SETTLE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_mins(2);

/// Files that an agent has open besides its connections', and room for those that close.
const OTHER_FILES: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_the_sum_of_clean_and_dirty() {
        let rollup = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\n\
                      Rss:               20000 kB\nPss:                7000 kB\n\
                      Pss_Dirty:          5000 kB\nShared_Clean:      12000 kB\n\
                      Private_Clean:       300 kB\nPrivate_Dirty:      6000 kB\n";
        assert_eq!(
            Memory::parse(rollup),
            Some(Memory {
                private: 6300,
                proportional: 7000
            })
        );
        assert_eq!(Memory::parse("Rss: 1 kB\n"), None);
    }

    #[test]
    fn the_limit_of_open_files_is_the_soft_one() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             100                  200                  processes\n\
                      Max open files            20000                30000                files\n";
        assert_eq!(parse_file_limit(limits), Some(20_000));
        assert_eq!(parse_file_limit(""), None);
    }
}
