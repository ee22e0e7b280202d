//! The machine that a run was measured on, as far as figures depend on it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;
use testbed::agent;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What it was at the start of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// When, RFC 3339.
    pub date: String,
    /// The kernel's release.
    pub kernel: String,
    /// The CPU's model.
    pub cpu: String,
    /// How many cores.
    pub cores: usize,
    /// The load average over a minute.
    pub load: f64,
    /// The machine's default congestion control, which the routes of the hosts override.
    pub default_congestion_control: String,
    /// The programs' versions, first lines of what they say.
    pub versions: Vec<String>,
}

impl Machine {
    pub(crate) fn read() -> Result<Self> {
        Ok(Self {
            date: OffsetDateTime::now_utc()
                .replace_nanosecond(0)?
                .format(&Rfc3339)?,
            kernel: read("/proc/sys/kernel/osrelease")?,
            cpu: cpu_model(&read("/proc/cpuinfo")?),
            cores: std::thread::available_parallelism()?.get(),
            load: parse_load(&read("/proc/loadavg")?)
                .context("/proc/loadavg does not begin with a number")?,
            default_congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control")?,
            versions: versions(),
        })
    }

    /// What makes its figures doubtful, if anything does.
    pub(crate) fn warning(&self) -> Option<String> {
        (self.load > QUIET_LOAD).then(|| {
            format!(
                "the load average was {:.2} at the start: something else ran on this machine",
                self.load
            )
        })
    }
}

fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {path}"))?;
    Ok(text.trim().to_owned())
}

/// The model in `/proc/cpuinfo`; not every architecture names one.
fn cpu_model(cpuinfo: &str) -> String {
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim())
        .to_owned()
}

fn parse_load(loadavg: &str) -> Option<f64> {
    loadavg.split(' ').next()?.parse().ok()
}

fn versions() -> Vec<String> {
    let agent = agent::binary();
    [
        (agent.as_os_str(), "--version"),
        ("iperf3".as_ref(), "--version"),
        ("wrk".as_ref(), "--version"),
        ("nginx".as_ref(), "-v"),
    ]
    .into_iter()
    .filter_map(|(program, option)| {
        let said = Command::new(program).arg(option).output().ok()?;
        // nginx says it on standard error.
        let text = [said.stdout, said.stderr].concat();
        let line = String::from_utf8_lossy(&text).lines().next()?.to_owned();
        Some(line.split(" Copyright").next()?.to_owned())
    })
    .collect()
}

/// Above it, figures are not worth keeping.
const QUIET_LOAD: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_model_is_what_follows_the_colon() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9R14\n";
        assert_eq!(cpu_model(cpuinfo), "AMD EPYC 9R14");
        assert_eq!(cpu_model("processor : 0\n"), "unknown");
    }

    #[test]
    fn the_load_is_that_of_the_last_minute() {
        assert_eq!(parse_load("0.42 6.82 7.04 3/345 98765"), Some(0.42));
        assert_eq!(parse_load(""), None);
    }
}
