//! A new manifest: from `set` to the last agent's new certificate, and to the old mesh CA's end.

use std::sync::Arc;

use anyhow::Result;
use tokio::time::Instant;

use super::agent::Pace;
use super::client::Client;
use super::cores::Cores;
use super::deployment::Deployment;
use super::fleet::Fleet;
use crate::figure::{Quantity, Reading};

/// Has agents follow a rotation.
pub(crate) async fn measure(cores: &Cores, agents: u32, pace: Pace) -> Result<Vec<Reading>> {
    let mut deployment = Deployment::start(cores).await?;
    let client = Arc::new(Client::new(&deployment)?);
    let mut fleet = Fleet::start(&client, agents, pace).await?;
    let cpu = deployment.cpu()?;
    let set = deployment.set().await?;
    // The first manifest made the first generation.
    let followed = fleet.follow(2).await?;
    let cpu = deployment.cpu()? - cpu;
    let failures: u32 = fleet.failures().values().sum();
    for (reason, count) in fleet.failures() {
        eprintln!("{count} agents had to begin anew: {reason}");
    }
    let since = |at: Instant| at.into_std().duration_since(set.asked).as_secs_f64();
    let answered = (set.answered - set.asked).as_secs_f64();
    Ok(vec![
        Quantity::less("from set to its answer", "s").of(answered),
        Quantity::less("from set to the last agent's trust in the new mesh CA", "s")
            .of(since(followed.trusts.last)),
        Quantity::less("from set to the first agent's new certificate", "s")
            .of(since(followed.holds.first)),
        Quantity::less("from set to the last agent's new certificate", "s")
            .of(since(followed.holds.last)),
        Quantity::less("from set to the first agent's trust in it alone", "s")
            .of(since(followed.alone.first)),
        Quantity::less("from set to the last agent's trust in it alone", "s")
            .of(since(followed.alone.last)),
        Quantity::less("CPU of the Coordinator, in all", "s").of(cpu),
        Quantity::less("agents that had to begin anew", "agents").of(f64::from(failures)),
    ])
}
