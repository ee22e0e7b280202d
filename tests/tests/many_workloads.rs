//! One agent with a thousand workloads and 10,000 rules: it starts, takes another configuration under
//! load, drops nothing meanwhile, and a connection costs what it costs with two workloads and no rule.
//!
//! `SEALWIRE_TEST_WORKLOADS` says how many workloads instead. What it took is printed.

use std::env;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit};
use testbed::agent::{AgentConfig, WorkloadConfig};
use testbed::pki::Mesh;
use testbed::{Agent, Client, EgressRule, Host, Server, Testbed, peer, require, skip};

#[test]
fn a_reload_of_thousands_of_rules_under_load_drops_nothing() -> Result<()> {
    require!();
    let count = match env::var("SEALWIRE_TEST_WORKLOADS") {
        Ok(count) => count.parse()?,
        Err(_) => WORKLOADS,
    };
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if files < FILES_OF_A_WORKLOAD * count as u64 {
        let why = format!("{files} open files are too few for {count} workloads");
        skip::report(&why);
        return Ok(());
    }
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
    let megabytes = agent.resident_bytes()? / 1_000_000;
    let files = agent.open_files()?;
    let with_all = mean_connection(client, server)?;
    agent.reconfigure(|config| {
        config.workloads().truncate(2);
        for workload in config.workloads() {
            workload.egress.clear();
        }
    })?;
    let with_two = mean_connection(client, server)?;
    eprintln!(
        "{count} workloads, {} rules: ready after {started:?}, reloaded after {reloaded:?}, \
         {megabytes} MB, {files} files, a connection takes {with_all:?}, with 2 workloads and no \
         rules {with_two:?}",
        rules * count,
    );
    Ok(())
}

/// How long a short connection takes, from the call until its end: of several means the least, as what
/// else the machine does only adds to it.
fn mean_connection(client: &Host, server: &Host) -> Result<Duration> {
    let one_by_one = format!("--connections {MEASURED} --in-turn 1 --send 100");
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let many = peer::many(client, server.at(PORT), &one_by_one)?;
        assert_eq!(many.exact, u64::from(MEASURED), "{many:?}");
        least = least.min(Duration::from_millis(many.milliseconds) / MEASURED);
    }
    Ok(least)
}

/// So many addresses that nobody has, one by one.
fn denials(second: u8, count: usize) -> Vec<EgressRule> {
    let address = |nth: usize| format!("10.{second}.{}.{}/32", nth >> 8, nth & 0xff);
    (0..count)
        .map(|nth| EgressRule::to(address(nth), "deny"))
        .collect()
}

const WORKLOADS: usize = 1000;
const RULES: usize = 10_000;
/// With two workers, and some to spare for the agent itself.
const FILES_OF_A_WORKLOAD: u64 = 15;
const MEASURED: u32 = 1000;
const ROUNDS: u32 = 5;
const PORT: u16 = 4000;
/// A thousand workloads take an agent that is not optimised minutes where the machine is busy.
const PATIENCE: Duration = Duration::from_mins(10);
