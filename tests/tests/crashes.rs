//! An agent is killed again and again under load, and started by its service manager: nothing is in clear,
//! nothing wrong arrives, nothing hangs, and whatever ended has an explanation.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use testbed::agent::Agent;
use testbed::pair::PORT;
use testbed::peer::{self, Many};
use testbed::{Pair, Server, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn twenty_crashes_of_the_clients_agent_under_load_leave_nothing_unexplained() -> Result<()> {
    require!();
    let (mut pair, _managers) = Pair::start_supervised()?;
    let ended = crash_under_load(&mut pair, |pair| &mut pair.client_agent)?;
    // Those that it had passed on are told by the other side. What it died over before is not.
    let told = told(&pair.server_agent)?;
    assert!(
        ended.transfers.resets() <= told,
        "{told} are told of {:?}",
        ended.transfers
    );
    pair.assert_served()
}

#[test]
fn twenty_crashes_of_the_servers_agent_under_load_leave_nothing_unexplained() -> Result<()> {
    require!();
    let (mut pair, _managers) = Pair::start_supervised()?;
    let ended = crash_under_load(&mut pair, |pair| &mut pair.server_agent)?;
    // All went through the client's, which has lived.
    let told = told(&pair.client_agent)?;
    let resets = ended.transfers.resets() + ended.churn.resets();
    assert!(resets <= told, "{told} are told of {resets}: {ended:?}");
    pair.assert_served()
}

/// What programs saw.
#[derive(Debug)]
struct Ended {
    transfers: Seen,
    churn: Seen,
}

/// Connections by how they ended.
#[derive(Debug)]
struct Seen(Many);

impl Seen {
    fn refused(&self) -> u64 {
        self.0
            .failures
            .get("connect: ECONNREFUSED")
            .copied()
            .unwrap_or(0)
    }

    fn resets(&self) -> u64 {
        self.0.failures.values().sum::<u64>() - self.refused()
    }

    /// None came to a wrong end: with wrong bytes, as if it were complete, or by a time-out.
    fn assert_none_is_wrong(&self) {
        let is_right = |failure: &String| {
            failure == "connect: ECONNREFUSED"
                || ["ECONNRESET", "EPIPE", "ENOTCONN"]
                    .iter()
                    .any(|errno| failure.ends_with(errno))
        };
        assert!(self.0.failures.keys().all(is_right), "{self:?}");
    }
}

fn crash_under_load(pair: &mut Pair, agent: fn(&mut Pair) -> &mut Agent) -> Result<Ended> {
    let addresses = [pair.server().at(PORT), pair.server().at_v6(PORT)];
    // Ephemeral ports run out where each is kept for a minute after use.
    for host in [pair.client(), pair.server()] {
        host.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    }
    let serving = Server::start(pair.server(), &addresses, "--echo --quiet")?;
    let sniffer = pair.bed.sniff()?;
    let transfers = peer::start_many(pair.client(), addresses[0], TRANSFERS)?;
    let churn = peer::start_many(pair.client(), addresses[1], CHURN)?;
    let mut first_start = true;
    for _ in 0..CRASHES {
        if !first_start {
            agent(pair).restart()?;
            agent(pair).wait_until_ready()?;
        }
        first_start = false;
        thread::sleep(BETWEEN);
        agent(pair).kill()?;
        // As RestartSec of the unit.
        thread::sleep(Duration::from_millis(100));
    }
    agent(pair).restart()?;
    agent(pair).wait_until_ready()?;
    thread::sleep(BETWEEN);
    let ended = Ended {
        churn: Seen(churn.stop()?),
        transfers: Seen(transfers.stop()?),
    };
    drop(serving);
    let capture = sniffer.finish()?;

    let Ended { churn, transfers } = &ended;
    for seen in [churn, transfers] {
        assert!(seen.0.exact > 0, "{ended:?}");
        seen.assert_none_is_wrong();
        // Until the next agent is there, and what its queue holds is served.
        assert!(seen.0.longest_milliseconds < 30_000, "{seen:?}");
    }
    assert!(transfers.resets() > 0, "no crash hit a transfer: {ended:?}");
    capture.assert_only_ciphertext((churn.0.exact + transfers.0.exact) * 2 * 1024);
    // Each refused connect() is one that a hook has counted.
    let metrics = pair.client_agent.metrics()?;
    let counted = metrics.sum("sealwire_kernel_refusals_total", &[]);
    let refused = churn.refused() + transfers.refused();
    assert!(
        refused <= counted,
        "{counted} are counted of {refused}: {ended:?}"
    );
    let attempts = churn.0.exact + churn.0.failures.values().sum::<u64>();
    // Not eprintln!, which libtest swallows when a test passes.
    let _ = writeln!(
        std::io::stderr(),
        "{CRASHES} crashes in {} s, {} new connections/s: churn {} exact, {} refused, {} reset, \
         {} left out, longest {} ms; transfers {} exact, {} refused, {} reset, longest {} ms",
        churn.0.milliseconds / 1000,
        attempts * 1000 / churn.0.milliseconds,
        churn.0.exact,
        churn.refused(),
        churn.resets(),
        churn.0.left_out,
        churn.0.longest_milliseconds,
        transfers.0.exact,
        transfers.refused(),
        transfers.resets(),
        transfers.0.longest_milliseconds,
    );
    Ok(ended)
}

/// Connections of whose end the agent tells, but for orderly ones: in their handshake, or later.
fn told(agent: &Agent) -> Result<u64> {
    let metrics = agent.metrics()?;
    let sum = |labels: &[(&str, &str)]| metrics.sum("sealwire_connections_total", labels);
    let reset = sum(&[]) - sum(&[("close", "orderly")]);
    Ok(reset + metrics.sum("sealwire_refusals_total", &[]))
}

const CRASHES: usize = 20;
/// From when an agent is ready to its end.
const BETWEEN: Duration = Duration::from_millis(700);
/// 200 at once, each of about two seconds: messages that each have to come back.
const TRANSFERS: &str =
    "--connections 200 --until-told --every 200000 --ping-pong 10 --pause 200000";
/// 500 each second, as far as no more than this are under way.
const CHURN: &str = "--connections 256 --until-told --rate 500";
