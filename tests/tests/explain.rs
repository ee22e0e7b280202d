//! `sealwire explain`, of what has happened and of what would.

use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::agent::binary_of;
use testbed::pair::PORT;
use testbed::pki::spiffe_id;
use testbed::{Agent, Client, EgressRule, IngressRule, Pair, Server, require};

#[test]
fn a_refusal_is_explained_by_its_number_in_the_log() -> Result<()> {
    require!();
    let pair = start()?;
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--echo")?;
    let _in_clear = Client::start(pair.outsider(), address, "--send 100")?;
    let refused = pair.server_agent.refusal("peer-not-tls")?;
    assert_eq!(refused["rule"], format!("ingress[0] {PORT}"));
    let id = refused["id"].as_str().context("no id")?;
    let told = explained(&pair.server_agent, &[id])?;
    for expected in [
        &format!("refusal {id}: refused"),
        "peer-not-tls: peer does not speak TLS",
        "Is it outside the mesh?",
        "docs/src/reference/refusals.md#peer-not-tls",
        &format!("ingress[0] {PORT} (number 1 of"),
        &spiffe_id("server"),
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    Ok(())
}

#[test]
fn a_refusal_of_the_kernel_side_is_explained_as_well() -> Result<()> {
    require!();
    let mut pair = start()?;
    pair.client_agent.kill()?;
    // Until then it counts as alive.
    thread::sleep(Duration::from_millis(1100));
    let address = pair.server().at(PORT);
    let outcome = Client::try_connect(pair.client(), address, "")?;
    ensure!(outcome.is_err(), "it connected: {outcome:?}");
    pair.client_agent.restart()?;
    let refused = pair.client_agent.refusal("agent-stale")?;
    let id = refused["id"].as_str().context("no id")?;
    let told = explained(&pair.client_agent, &[id])?;
    assert!(told.contains("start the agent"), "{told}");
    Ok(())
}

#[test]
fn an_open_connection_is_explained_while_it_is_open() -> Result<()> {
    require!();
    let pair = start()?;
    let address = pair.server().at(PORT);
    let _serving = Server::start(
        pair.server(),
        &[address],
        "--send 4000000000 --write-pause 100",
    )?;
    let client = Client::start(pair.client(), address, "")?;
    client.connected()?;
    let agent = &pair.client_agent;
    agent.wait_for("no connection is open", |agent| {
        Ok(agent
            .connections()?
            .first()
            .is_some_and(|it| it["state"] == "open"))
    })?;
    let id = agent.connections()?[0]["id"].to_string();
    let told = explained(agent, &[&id])?;
    for expected in [
        &format!("connection {id}: open"),
        "egress default",
        &spiffe_id("client"),
        &spiffe_id("server"),
        "offload-off: the configuration says so",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    drop(client);
    agent.wait_until_idle()?;
    let told = explained(agent, &[&id])?;
    let line = agent.access(|it| it["id"] == id)?;
    let close = line["close"].as_str().context("no close")?;
    assert!(told.contains(&format!("connection {id}: ended")), "{told}");
    assert!(told.contains(&format!("it ended as {close}:")), "{told}");
    assert!(told.contains(&spiffe_id("server")), "{told}");
    let unknown = error(agent, &["4000000"])?;
    assert!(unknown.contains("never was"), "{unknown}");
    Ok(())
}

#[test]
fn a_connection_to_be_is_judged_by_the_rules() -> Result<()> {
    require!();
    let pair = start()?;
    let (client, server) = (&pair.client_agent, &pair.server_agent);
    let address = pair.server().at(PORT);
    let named = explained(client, &[&format!("client -> {address}")])?;
    assert!(named.contains("would be let through"), "{named}");
    assert!(named.contains("egress default"), "{named}");
    let denied = explained(client, &["client -> 192.0.2.1:80"])?;
    assert!(denied.contains("would be refused"), "{denied}");
    assert!(
        denied.contains("egress[0] 192.0.2.0/24 says deny"),
        "{denied}"
    );

    // The addresses tell which end the workload is.
    let by_address = format!("{} -> {address}", pair.client().v4());
    assert!(explained(client, &[&by_address])?.contains("client egress"));
    assert!(explained(server, &[&by_address])?.contains("server ingress"));
    let stranger = format!("{} -> {address}", spiffe_id("stranger"));
    let stranger = explained(server, &[&stranger])?;
    assert!(stranger.contains("peer-not-allowed"), "{stranger}");
    let member = format!("{} -> {address}", spiffe_id("client"));
    let member = explained(server, &[&member])?;
    assert!(member.contains("would be let through"), "{member}");
    Ok(())
}

#[test]
fn what_can_not_be_explained_says_why() -> Result<()> {
    require!();
    let pair = start()?;
    let unknown = error(&pair.server_agent, &["r1"])?;
    assert!(unknown.contains("there is no refusal r1 yet"), "{unknown}");
    let nobody = error(&pair.server_agent, &["nobody -> 10.0.0.2:80"])?;
    assert!(
        nobody.contains("no workload of this agent's, which are server"),
        "{nobody}"
    );
    let absent = sealwire(1, &["r1"])?;
    assert_eq!(absent.status.code(), Some(1));
    let text = String::from_utf8(absent.stderr)?;
    assert!(text.contains("no agent answers on port 1"), "{text}");
    Ok(())
}

/// Agents with a rule each.
fn start() -> Result<Pair> {
    Pair::start_with(|client, server| {
        client.egress = vec![EgressRule::to("192.0.2.0/24", "deny")];
        server.ingress = vec![IngressRule {
            port: PORT,
            mode: "mtls",
            peers: vec!["client".to_owned()],
        }];
    })
}

fn explained(agent: &Agent, arguments: &[&str]) -> Result<String> {
    let output = sealwire(agent.admin_port(), arguments)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {stderr}");
    Ok(String::from_utf8(output.stdout)?)
}

fn error(agent: &Agent, arguments: &[&str]) -> Result<String> {
    let output = sealwire(agent.admin_port(), arguments)?;
    ensure!(output.status.code() == Some(1), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stderr)?)
}

fn sealwire(port: u16, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary_of("sealwire"));
    command.args(["explain", "--admin-port", &port.to_string()]);
    Ok(command.args(arguments).output()?)
}
