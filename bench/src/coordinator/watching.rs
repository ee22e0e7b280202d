//! Agents that watch: what they cost the Coordinator while nothing changes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::agent::Pace;
use super::client::Client;
use super::cores::Cores;
use super::deployment::{Deployment, Memory};
use super::enrolment::Enrolments;
use super::fleet::Fleet;
use crate::figure::{Quantity, Reading};

/// Has agents enrol, watch, and leave.
pub(crate) async fn measure(
    cores: &Cores,
    agents: u32,
    duration: Duration,
) -> Result<Vec<Reading>> {
    let deployment = Deployment::start(cores).await?;
    let client = Arc::new(Client::new(&deployment)?);
    // What is made on first use, is made.
    drop(Fleet::start(&client, agents.min(WARM_UP), Pace::Spread).await?);
    sleep(SETTLE).await;

    let before = deployment.memory()?;
    let mut fleet = Fleet::start(&client, agents, Pace::Spread).await?;
    sleep(SETTLE).await;
    let after = deployment.memory()?;

    let (cpu, start) = (deployment.cpu()?, Instant::now());
    sleep(IDLE).await;
    let idle = (deployment.cpu()? - cpu) / start.elapsed().as_secs_f64();
    let enrolments = Enrolments::measure(&deployment, &client, 1, duration).await?;
    for (reason, count) in fleet.failures() {
        eprintln!("{count} agents had to begin anew: {reason}");
    }
    let failures: u32 = fleet.failures().values().sum();

    drop(fleet);
    sleep(SETTLE).await;
    let left = deployment.memory()?;
    Ok(readings(&Watched {
        agents,
        before,
        after,
        left,
        idle,
        enrolment: enrolments.cost(),
        failures,
    }))
}

struct Watched {
    agents: u32,
    before: Memory,
    after: Memory,
    left: Memory,
    /// Share of a core.
    idle: f64,
    /// Microseconds of CPU time.
    enrolment: f64,
    failures: u32,
}

fn readings(watched: &Watched) -> Vec<Reading> {
    let Watched {
        agents,
        before,
        after,
        left,
        idle,
        enrolment,
        failures,
    } = *watched;
    let mebibytes = |kibibytes: u64| kibibytes as f64 / 1024.0;
    let each = (after.resident as f64 - before.resident as f64) / f64::from(agents);
    vec![
        Quantity::more("watching at once", "agents").of(f64::from(agents)),
        PER_AGENT.of(each),
        Quantity::less("memory before", "MiB").of(mebibytes(before.resident)),
        Quantity::less("memory with all of them", "MiB").of(mebibytes(after.resident)),
        Quantity::less("memory at its peak, while they enrolled", "MiB").of(mebibytes(after.peak)),
        Quantity::less("memory after they have left", "MiB").of(mebibytes(left.resident)),
        Quantity::less("CPU while nothing changes", "% of a core").of(idle * 100.0),
        Quantity::less("CPU of an enrolment beside them", "us/enrolment").of(enrolment),
        Quantity::less("agents that had to begin anew", "agents").of(f64::from(failures)),
    ]
}

const PER_AGENT: Quantity = Quantity::less("memory for each", "KiB/agent");
const WARM_UP: u32 = 64;
const SETTLE: Duration = Duration::from_secs(5);
/// Two intervals of both sides' keep-alive.
const IDLE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_each_agent_is_what_grew_with_them() {
        let memory = |resident| Memory {
            resident,
            peak: resident,
        };
        let readings = readings(&Watched {
            agents: 10,
            before: memory(1_000),
            after: memory(1_500),
            left: memory(1_100),
            idle: 0.5,
            enrolment: 900.0,
            failures: 0,
        });
        assert!(readings.contains(&PER_AGENT.of(50.0)));
    }
}
