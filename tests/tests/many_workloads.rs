//! One agent with many workloads and thousands of rules: it starts, takes another configuration under
//! load, and drops nothing meanwhile.
//!
//! 10,000 rules, shared out among 100 workloads, or as many as `SEALWIRE_TEST_WORKLOADS` says. What it
//! took is printed.

use std::env;
use std::time::{Duration, Instant};

use anyhow::Result;
use testbed::agent::{AgentConfig, WorkloadConfig};
use testbed::pki::Mesh;
use testbed::{Agent, Client, EgressRule, Server, Testbed, peer, require};

#[test]
fn a_reload_of_thousands_of_rules_under_load_drops_nothing() -> Result<()> {
    require!();
    let count = match env::var("SEALWIRE_TEST_WORKLOADS") {
        Ok(count) => count.parse()?,
        Err(_) => 100,
    };
    let idle: Vec<_> = (2..count).map(|nth| format!("idle-{nth}")).collect();
    let bed = Testbed::new(&["client", "server"])?.with_unwired(&idle)?;
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let [client, server] = [bed.host("client"), bed.host("server")];
    let of_idle = mesh.issue("idle")?;
    let mut workloads = vec![
        WorkloadConfig::of(client, &mesh.issue("client")?),
        WorkloadConfig::of(server, &mesh.issue("server")?),
    ];
    workloads.extend(
        idle.iter()
            .map(|name| WorkloadConfig::of(bed.host(name), &of_idle)),
    );
    let rules = RULES / workloads.len();
    for workload in &mut workloads {
        workload.egress = denials(0, rules);
    }

    let began = Instant::now();
    let config = AgentConfig::new(workloads)?.with_patience(PATIENCE);
    let mut agent = Agent::start_with(&bed, config)?;
    let started = began.elapsed();

    let addresses = [server.at(PORT), server.at_v6(PORT)];
    let _serving = Server::start(server, &addresses, "--echo --quiet")?;
    let sniffer = bed.sniff()?;
    let [of_v4, of_v6] = addresses.map(|to| {
        peer::start_many(
            client,
            to,
            "--connections 4 --until-told --every 20000 --send 2000",
        )
    });
    let long = Client::start(
        client,
        addresses[1],
        "--send 400000 --chunk 4000 --write-pause 5000",
    )?;
    long.connected()?;
    let began = Instant::now();
    // Every rule is another.
    agent.reconfigure(|config| {
        for workload in config.workloads() {
            workload.egress = denials(128, rules);
        }
    })?;
    let reloaded = began.elapsed();
    // One workload less is nothing to the others.
    agent.reconfigure(|config| drop(config.workloads().pop()))?;
    long.closed()?.assert_exact(400_000, 400_000);
    let mut exact = 0;
    for running in [of_v4, of_v6] {
        let many = running?.stop()?;
        assert_eq!(many.failures.len(), 0, "{many:?}");
        exact += many.exact;
    }
    assert!(exact > 0, "there was no traffic");
    sniffer.finish()?.assert_only_ciphertext(2 * 2000 * exact);
    let ended = [("direction", "egress"), ("close", "orderly")];
    agent.wait_until_idle()?;
    assert_eq!(
        agent.metrics()?.sum("sealwire_connections_total", &ended),
        exact + 1
    );

    // What was denied before is not, and the other way round.
    let denied = "10.128.0.1:80".parse()?;
    let refused = Client::start(client, denied, "--send 100")?.closed()?;
    assert!(refused.was_reset(), "{refused:?}");
    let line = agent.refusal("denied-by-rule")?;
    assert_eq!(line["rule"], "egress[1] 10.128.0.1/32");
    eprintln!(
        "{count} workloads, {} rules: ready after {started:?}, reloaded after {reloaded:?}, {} MB, {} files",
        rules * count,
        agent.resident_bytes()? / 1_000_000,
        agent.open_files()?
    );
    Ok(())
}

/// So many addresses that nobody has, one by one.
fn denials(second: u8, count: usize) -> Vec<EgressRule> {
    let address = |nth: usize| format!("10.{second}.{}.{}/32", nth >> 8, nth & 0xff);
    (0..count)
        .map(|nth| EgressRule::to(address(nth), "deny"))
        .collect()
}

const RULES: usize = 10_000;
const PORT: u16 = 4000;
/// A thousand workloads take an agent that is not optimised a minute.
const PATIENCE: Duration = Duration::from_mins(5);
