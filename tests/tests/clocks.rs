//! Clocks that are a day off, at the start and by a jump: what can't be told to be valid is refused,
//! by a reason that names both times, and all is well as soon as the clock is right.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::clock::DAY;
use testbed::pair::{EnrolledPair, PORT, enrolled};
use testbed::{Agent, Client, Clock, Coordinator, Server, Testbed, clock, require, skip};

/// Leaves a test on a machine without libfaketime.
macro_rules! require_clock {
    () => {
        require!();
        if let Some(reason) = clock::lacking() {
            skip::report(reason);
            return Ok(());
        }
    };
}

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn an_agent_whose_clock_is_a_day_off_at_its_start_is_refused_until_it_is_right() -> Result<()> {
    require_clock!();
    for (set, text) in OFF {
        let bed = Testbed::new(&["client", "server", "outsider"])?;
        let clock = Clock::new(bed.directory(), "client-clock")?;
        set(&clock)?;
        let coordinator = Coordinator::start(&bed, &["client", "server", "bystander"])?;
        let config = enrolled(&bed, &coordinator, "client")?.with_clock(clock.clone());
        let pair = EnrolledPair {
            client_agent: Agent::start_unready(&bed, config)?,
            server_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "server")?)?,
            coordinator,
            bed,
        };
        assert_refused(&pair, text)?;
        clock.right()?;
        assert_well(&pair)?;
        assert_renewals_are_few(&pair.client_agent)?;
    }
    Ok(())
}

#[test]
fn an_agent_whose_clock_jumps_a_day_is_refused_until_it_is_right_and_its_connections_go_on()
-> Result<()> {
    require_clock!();
    let bed = Testbed::new(&["client", "server", "outsider"])?;
    let clock = Clock::new(bed.directory(), "client-clock")?;
    let coordinator = Coordinator::start(&bed, &["client", "server", "bystander"])?;
    let config = enrolled(&bed, &coordinator, "client")?.with_clock(clock.clone());
    let pair = EnrolledPair {
        client_agent: Agent::start_with(&bed, config)?,
        server_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "server")?)?,
        coordinator,
        bed,
    };
    pair.assert_served()?;
    for (set, text) in OFF {
        let (serving, running) = long_conversation(&pair)?;
        set(&clock)?;
        assert_refused(&pair, text)?;
        clock.right()?;
        running.closed()?.assert_exact(LONG, LONG);
        drop(serving); // of the same port
        assert_well(&pair)?;
    }
    assert_renewals_are_few(&pair.client_agent)
}

#[test]
fn a_coordinator_whose_clock_is_a_day_off_at_its_start_serves_when_it_is_right() -> Result<()> {
    require_clock!();
    for (set, text) in OFF_BY_COORDINATOR {
        let bed = Testbed::new(&["client", "server", "outsider"])?;
        let clock = Clock::new(bed.directory(), "coordinator-clock")?;
        set(&clock)?;
        let workloads = ["client", "server", "bystander"];
        let coordinator = Coordinator::start_with_clock(&bed, &workloads, clock.clone())?;
        let pair = EnrolledPair {
            client_agent: Agent::start_unready(&bed, enrolled(&bed, &coordinator, "client")?)?,
            server_agent: Agent::start_unready(&bed, enrolled(&bed, &coordinator, "server")?)?,
            coordinator,
            bed,
        };
        assert_refused(&pair, text)?;
        clock.right()?;
        assert_well(&pair)?;
        for agent in [&pair.client_agent, &pair.server_agent] {
            assert_renewals_are_few(agent)?;
        }
    }
    Ok(())
}

#[test]
fn a_coordinator_whose_clock_jumps_a_day_takes_nothing_from_those_that_have_certificates()
-> Result<()> {
    require_clock!();
    let bed = Testbed::new(&["client", "server", "outsider"])?;
    let clock = Clock::new(bed.directory(), "coordinator-clock")?;
    let workloads = ["client", "server", "bystander"];
    let coordinator = Coordinator::start_with_clock(&bed, &workloads, clock.clone())?;
    let mut pair = EnrolledPair {
        client_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "client")?)?,
        server_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "server")?)?,
        coordinator,
        bed,
    };
    pair.assert_served()?;
    for (set, text) in OFF_BY_COORDINATOR {
        let (serving, running) = long_conversation(&pair)?;
        set(&clock)?;
        running.closed()?.assert_exact(LONG, LONG);
        drop(serving); // of the same port
        // An agent that comes now gets nothing that it can use.
        pair.client_agent.kill()?;
        pair.client_agent.restart()?;
        assert_refused(&pair, text)?;
        let (ready, body) = pair.server_agent.ready()?;
        ensure!(ready, "the server's agent lost its certificate: {body}");
        clock.right()?;
        assert_well(&pair)?;
    }
    Ok(())
}

/// The client's programs are refused at once, for a reason with both times; nothing is in clear.
fn assert_refused(pair: &EnrolledPair, text: &str) -> Result<()> {
    pair.client_agent.wait_for("it is ready", |agent| {
        let (ready, body) = agent.ready()?;
        Ok(!ready
            && body["workloads"][0]["why"]
                .as_str()
                .is_some_and(|why| why.contains(text)))
    })?;
    let why = why(&pair.client_agent)?;
    assert_eq!(times_in(&why), 2, "{why}");

    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let refused = Client::start(pair.client(), address, "--send 3000 --patience 2000")?;
    let outcome = refused.outcome()?;
    let (errno, _) = outcome.err().context("the connection was let through")?;
    assert_eq!(errno, "ECONNREFUSED");
    sniffer.finish()?.assert_no_plaintext();
    assert_eq!(serving.connections(), 0);
    let line = pair.client_agent.refused(|line| {
        let detail = line["detail"].as_str().unwrap_or_default();
        detail.contains(text) && times_in(detail) == 2
    })?;
    assert!(
        ["no-credential", "credential-expired"].contains(&line["reason"].as_str().unwrap_or("")),
        "{line}"
    );
    Ok(())
}

fn assert_well(pair: &EnrolledPair) -> Result<()> {
    for agent in [&pair.client_agent, &pair.server_agent] {
        let deadline = std::time::Instant::now() + SET_RIGHT;
        while !agent.ready()?.0 {
            ensure!(
                std::time::Instant::now() < deadline,
                "it is not ready though the clock is right: {}",
                agent.ready()?.1
            );
            thread::sleep(Duration::from_millis(100));
        }
        agent.wait_for("it still complains", |agent| {
            Ok(agent
                .ready()?
                .1
                .get("coordinator")
                .is_none_or(Value::is_null))
        })?;
    }
    pair.assert_served()
}

/// What it was issued, however long it was refused, is a matter of some attempts a minute.
fn assert_renewals_are_few(agent: &Agent) -> Result<()> {
    let attempts = agent.metrics()?.sum("sealwire_enrolments_total", &[]);
    assert!(attempts < 30, "{attempts} enrolments");
    Ok(())
}

/// A conversation that lasts some seconds longer than a refusal takes to be seen.
fn long_conversation(pair: &EnrolledPair) -> Result<(Server, Client)> {
    let address = pair.server().at(LONG_PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let options = format!("--send {LONG} --chunk 4000 --write-pause 20000");
    let running = Client::start(pair.client(), address, &options)?;
    running.connected()?;
    serving.accepted(0)?;
    Ok((serving, running))
}

fn why(agent: &Agent) -> Result<String> {
    let (_, body) = agent.ready()?;
    let why = body["workloads"][0]["why"].as_str();
    Ok(why
        .with_context(|| format!("no reason: {body}"))?
        .to_owned())
}

/// How many RFC 3339 times in UTC there are in a text.
fn times_in(text: &str) -> usize {
    let is_time = |word: &&str| word.starts_with("20") && word.contains('T');
    text.split_whitespace().filter(is_time).count()
}

type Set = fn(&Clock) -> Result<()>;

/// An agent's clock, and what is said of a certificate then.
const OFF: [(Set, &str); 2] = [
    (|clock| clock.ahead(DAY + HOUR), "has expired"),
    (|clock| clock.behind(DAY), "has not begun"),
];

/// The same for the Coordinator's clock.
const OFF_BY_COORDINATOR: [(Set, &str); 2] = [
    (|clock| clock.ahead(DAY), "has not begun"),
    (|clock| clock.behind(DAY + HOUR), "has expired"),
];

const HOUR: Duration = Duration::from_hours(1);
const LONG: u64 = 1_000_000;
const LONG_PORT: u16 = 4010;

/// Longer than an agent waits before it asks again, after some seconds of refusals.
const SET_RIGHT: Duration = Duration::from_secs(90);
