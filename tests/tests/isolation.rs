//! Workloads never mix: each connection carries the certificate of the workload that made it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use testbed::pki::{Mesh, spiffe_id};
use testbed::{Agent, Client, Server, Testbed, WorkloadConfig, peer, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    let bed = Testbed::new(&["red", "server"])?;
    let address = bed.host("server").at(PORT);
    let _serving = Server::start(bed.host("server"), &[address], "--echo --quiet")?;
    let sniffer = bed.sniff()?;
    let many = peer::many(bed.host("red"), address, "--connections 10")?;
    assert_eq!(many.exact, 10, "{many:?}");
    sniffer.finish()?.assert_saw_plaintext();
    Ok(())
}

#[test]
fn two_workloads_of_one_agent_never_mix() -> Result<()> {
    require!();
    let bed = Testbed::new(&["red", "blue", "server"])?;
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let clients = Agent::start(
        &bed,
        vec![of(&bed, &mesh, "red")?, of(&bed, &mesh, "blue")?],
    )?;
    let server = Agent::start(&bed, vec![of(&bed, &mesh, "server")?])?;
    assert_never_mix(&bed, &server)?;
    assert_own_identities(&clients)
}

#[test]
fn two_agents_on_one_machine_never_mix() -> Result<()> {
    require!();
    let bed = Testbed::new(&["red", "blue", "server"])?;
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let agents = [
        Agent::start(&bed, vec![of(&bed, &mesh, "red")?])?,
        Agent::start(&bed, vec![of(&bed, &mesh, "blue")?])?,
    ];
    let server = Agent::start(&bed, vec![of(&bed, &mesh, "server")?])?;
    assert_never_mix(&bed, &server)?;
    agents.iter().try_for_each(assert_own_identities)
}

#[test]
fn workloads_of_one_agent_talk_to_each_other_over_the_wire_in_ciphertext() -> Result<()> {
    require!();
    let bed = Testbed::new(&["red", "blue", "server"])?;
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let workloads = ["red", "blue", "server"].map(|name| of(&bed, &mesh, name));
    let agent = Agent::start(&bed, workloads.into_iter().collect::<Result<_>>()?)?;
    assert_never_mix(&bed, &agent)
}

#[test]
fn an_agent_leaves_what_another_agent_pinned() -> Result<()> {
    require!();
    let bed = Testbed::new(&["red", "blue", "server"])?;
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let mut red = Agent::start(&bed, vec![of(&bed, &mesh, "red")?])?;
    let blue = Agent::start(&bed, vec![of(&bed, &mesh, "blue")?])?;
    let _server = Agent::start(&bed, vec![of(&bed, &mesh, "server")?])?;
    red.stop()?;
    red.detach()?.success()?;

    let address = bed.host("server").at(PORT);
    let _serving = Server::start(bed.host("server"), &[address], "--echo")?;
    let sniffer = bed.sniff()?;
    Client::run(bed.host("blue"), address, "--send 5000")?.assert_exact(5000, 5000);
    sniffer.finish()?.assert_only_ciphertext(5000);
    ensure!(blue.ready()?.0);
    Ok(())
}

#[test]
fn a_rule_for_one_workload_does_not_hold_for_another() -> Result<()> {
    require!();
    let bed = Testbed::new(&["red", "blue", "server"])?;
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let mut server = of(&bed, &mesh, "server")?;
    server.ingress_peers = vec!["red".to_owned()];
    let _clients = Agent::start(
        &bed,
        vec![of(&bed, &mesh, "red")?, of(&bed, &mesh, "blue")?],
    )?;
    let server = Agent::start(&bed, vec![server])?;

    let address = bed.host("server").at(PORT);
    let serving = Server::start(bed.host("server"), &[address], "--echo")?;
    Client::run(bed.host("red"), address, "--send 5000")?.assert_exact(5000, 5000);
    let refused = Client::run(bed.host("blue"), address, "--send 5000")?;
    assert!(refused.was_reset(), "{refused:?}");
    let line = server.refusal("peer-not-allowed")?;
    assert!(line.to_string().contains(&spiffe_id("blue")), "{line}");
    assert_eq!(serving.connections(), 1);
    Ok(())
}

/// Both clients connect at the same time, over and over; to the server's agent each connection
/// must be that of the workload from whose address it comes.
fn assert_never_mix(bed: &Testbed, server: &Agent) -> Result<()> {
    let address = bed.host("server").at(PORT);
    let _serving = Server::start(bed.host("server"), &[address], "--echo --quiet")?;
    let sniffer = bed.sniff()?;
    std::thread::scope(|scope| -> Result<()> {
        let clients = ["red", "blue"].map(|name| {
            scope.spawn(move || {
                peer::many(bed.host(name), address, &format!("--connections {MANY}"))
            })
        });
        for client in clients {
            let many = client.join().ok().context("a client panicked")??;
            ensure!(many.exact == MANY, "{many:?}");
        }
        Ok(())
    })?;
    sniffer.finish()?.assert_only_ciphertext(4 * 1024 * MANY);

    let mut seen = BTreeMap::new();
    server.access(|line| {
        if line["direction"] == "ingress" {
            let from = line["from"].as_str().unwrap_or_default().to_owned();
            seen.insert(from, (line["peer"].clone(), line["identity"].clone()));
        }
        seen.len() as u64 == 2 * MANY
    })?;
    for (from, (peer, identity)) in seen {
        let ip: IpAddr = from.parse::<std::net::SocketAddr>()?.ip();
        let name = if ip == bed.host("red").v4() {
            "red"
        } else {
            "blue"
        };
        ensure!(
            peer == spiffe_id(name),
            "{from} ({name}) came with the certificate of {peer}"
        );
        ensure!(
            identity == spiffe_id("server"),
            "{from} was answered as {identity}"
        );
    }
    Ok(())
}

/// Each line of the agent's log names the workload and that workload's identity.
fn assert_own_identities(agent: &Agent) -> Result<()> {
    agent.wait_until_idle()?;
    let mut lines = 0;
    let wrong = agent.find_access(|line| {
        lines += 1;
        line["identity"] != spiffe_id(line["workload"].as_str().unwrap_or_default())
    });
    ensure!(lines > 0, "no connection was logged");
    ensure!(wrong.is_none(), "another workload's identity: {wrong:?}");
    Ok(())
}

fn of(bed: &Testbed, mesh: &Mesh, name: &str) -> Result<WorkloadConfig> {
    Ok(WorkloadConfig::of(bed.host(name), &mesh.issue(name)?))
}

const PORT: u16 = 4000;
const MANY: u64 = 100;
