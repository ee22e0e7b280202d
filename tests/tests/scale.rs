//! Many connections, fast ones, long ones; and nothing that stays behind when they are gone.

use std::env;

use anyhow::{Result, ensure};
use testbed::pair::PORT;
use testbed::{Agent, Client, Pair, Server, Testbed, peer, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let address = bed.host("server").at(PORT);
    let _serving = Server::start(bed.host("server"), &[address], "--echo --quiet")?;
    let sniffer = bed.sniff()?;
    let count = connections()?;
    let options = format!("--connections {count} --at-a-time 16");
    let many = peer::many(bed.host("client"), address, &options)?;
    assert_eq!((many.exact, many.open_at_once), (count, count), "{many:?}");
    let capture = sniffer.finish()?;
    assert!(capture.markers >= 2 * count, "{} markers", capture.markers);
    Ok(())
}

#[test]
fn thousands_of_connections_are_open_at_once_and_leave_nothing() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--echo --quiet")?;
    peer::many(pair.client(), address, "--connections 20")?; // what is made on first use, is made
    let before = Resources::of_both(&pair)?;

    let sniffer = pair.bed.sniff()?;
    let count = connections()?;
    let options = format!("--connections {count} --at-a-time 16 --send 5000");
    let many = peer::many(pair.client(), address, &options)?;
    assert_eq!((many.exact, many.open_at_once), (count, count), "{many:?}");
    sniffer.finish()?.assert_only_ciphertext(2 * count * 5000);
    assert_back_to(&before, &pair)
}

#[test]
fn a_burst_of_two_thousand_connections_is_served() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--echo --quiet")?;
    let many = peer::many(pair.client(), address, "--connections 2000 --send 5000")?;
    assert_eq!((many.exact, many.open_at_once), (2000, 2000), "{many:?}");
    Ok(())
}

#[test]
fn connections_churned_at_full_speed_for_a_minute_leave_nothing() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    for host in [pair.client(), pair.server()] {
        // Ephemeral ports run out where each is kept for a minute after use.
        host.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        host.sysctl("net/ipv4/ip_local_port_range", "10000 65000")?;
    }
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--echo --quiet")?;
    peer::many(pair.client(), address, "--connections 8 --churn 2")?;
    let before = Resources::of_both(&pair)?;

    let sniffer = pair.bed.sniff()?;
    let churn = format!("--connections 8 --churn {CHURN_SECONDS}");
    let many = peer::many(pair.client(), address, &churn)?;
    assert_eq!(many.failures.values().sum::<u64>(), 0, "{many:?}");
    assert!(many.exact > 1000, "{many:?}");
    sniffer
        .finish()?
        .assert_only_ciphertext(many.exact * 2 * 1024);
    eprintln!("{} connections in {CHURN_SECONDS} s", many.exact);
    assert_back_to(&before, &pair)
}

#[test]
fn a_gibibyte_goes_both_ways_at_once() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    pair.assert_exact(GIBIBYTE, GIBIBYTE, "", "")?;
    for agent in [&pair.client_agent, &pair.server_agent] {
        let resident = agent.resident_bytes()?;
        assert!(resident < 200 << 20, "the agent holds {resident} bytes");
    }
    Ok(())
}

#[test]
fn a_program_that_is_killed_leaves_nothing() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "")?;
    Client::run(pair.client(), address, "--send 1000")?.assert_exact(1000, 0);
    pair.client_agent.wait_until_idle()?;
    pair.server_agent.wait_until_idle()?;
    let before = Resources::of_both(&pair)?;
    let clients = (0..20)
        .map(|_| Client::start(pair.client(), address, "--send 500000000 --write-pause 100"))
        .collect::<Result<Vec<_>>>()?;
    for client in &clients {
        client.connected()?;
    }
    drop(clients);
    drop(serving);
    assert_back_to(&before, &pair)
}

/// How many: 2,000, or what `SEALWIRE_TEST_CONNECTIONS` says where handshakes take much longer.
fn connections() -> Result<u64> {
    match env::var("SEALWIRE_TEST_CONNECTIONS") {
        Ok(count) => Ok(count.parse()?),
        Err(_) => Ok(2000),
    }
}

/// What an agent uses while it carries no connection.
#[derive(Debug)]
struct Resources {
    files: usize,
    flows: u64,
    memory: u64,
}

impl Resources {
    fn of(agent: &Agent) -> Result<Self> {
        agent.wait_until_idle()?;
        let metrics = agent.metrics()?;
        let entries = |map| metrics.sum("sealwire_map_entries", &[("map", map)]);
        ensure!(
            metrics.sum("sealwire_map_capacity", &[("map", "flows")]) > 0,
            "the agent does not say how full its maps are"
        );
        Ok(Self {
            files: agent.open_files()?,
            flows: entries("flows") + entries("clients"),
            memory: agent.resident_bytes()?,
        })
    }

    fn of_both(pair: &Pair) -> Result<[Self; 2]> {
        Ok([Self::of(&pair.client_agent)?, Self::of(&pair.server_agent)?])
    }
}

/// Within seconds the agents use no more than before.
fn assert_back_to(before: &[Resources; 2], pair: &Pair) -> Result<()> {
    for (before, agent) in before.iter().zip([&pair.client_agent, &pair.server_agent]) {
        agent.wait_for("files or map entries are left", |agent| {
            let now = Resources::of(agent)?;
            ensure!(now.files <= before.files, "{now:?} after {before:?}");
            ensure!(now.flows <= before.flows, "{now:?} after {before:?}");
            Ok(true)
        })?;
        let after = agent.resident_bytes()?;
        // An allocator keeps some of what 2,000 connections needed at once.
        ensure!(
            after < before.memory + ALLOCATOR,
            "{after} bytes after {before:?}"
        );
    }
    Ok(())
}

const GIBIBYTE: u64 = 1 << 30;
const CHURN_SECONDS: u32 = 60;
const ALLOCATOR: u64 = 48 << 20;
