//! `sealwire connections`: the connections that an agent carries, once or again and again.

mod connection;
mod filter;
mod table;
mod watch;

use clap::Args;

use crate::admin::{AdminPort, AgentArgs, Answer};
use crate::client::block_on;
use crate::failure::Failure;
pub(crate) use connection::{Direction, harmless};

use connection::Listed;
use filter::Filter;
use table::Room;
use watch::Interval;

/// Show the connections that an agent carries at present: who talks to whom, how, and why so.
///
/// DATAPATH is what moves the bytes, and why that one: `in-place`, `kernel` or `userspace`. A
/// connection without one is still in its handshake. SENT and RECEIVED are the program's bytes,
/// without TLS.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Connections {
    #[command(flatten)]
    agent: AgentArgs,

    #[command(flatten)]
    filter: Filter,

    /// As JSON: an array, each connection as the agent gave it
    #[arg(long)]
    json: bool,

    /// Show it anew every so many seconds, with rates and the busiest first, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    watch: Option<Interval>,
}

impl Connections {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let port = self.agent.agent()?;
        block_on(async {
            match self.watch {
                None => {
                    let listed = list(port, &self.filter).await?;
                    Ok(if self.json {
                        listed.as_json()
                    } else {
                        table::once(&listed, Room::of_stdout())
                    })
                }
                Some(interval) => watch::watch(port, &self.filter, interval, self.json).await,
            }
        })
    }
}

/// The connections that pass the filter.
async fn list(port: AdminPort, filter: &Filter) -> anyhow::Result<Listed> {
    let Answer { omitted, body } = port.get("/connections").await?;
    Listed::parse(&body, omitted, filter)
}

const EXAMPLES: &str = "\
Examples:
  sealwire connections --admin-port 9464
  sealwire connections --admin-port 9464 --watch --workload web --direction egress
  sealwire connections --admin-port 9464 --to 10.0.0.7:5432 --peer db
  sealwire connections --admin-port 9464 --json | jq '.[] | select(.datapath == \"userspace\")'

An agent answers if it was started with --admin-port. It lists at most 20,000 connections, the
oldest; filters choose from these.

Exit codes: 0 shown, 1 no agent answers, 2 wrong usage, 130 ended by Ctrl-C.";
