//! Certificates come from a Coordinator, and everything changes while connections run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::coordinator::spiffe_id;
use testbed::pair::{PORT, enrolled};
use testbed::{
    Agent, AgentConfig, Client, Coordinator, EnrolledPair, Server, Testbed, WorkloadConfig, agent,
    peer, require,
};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn agents_enrol_and_their_workloads_talk() -> Result<()> {
    require!();
    let pair = EnrolledPair::start()?;
    pair.assert_served()?;
    let line = pair.server_agent.access(|line| line["received"] == 3000)?;
    assert_eq!(line["identity"], spiffe_id("server"), "{line}");
    assert_eq!(line["peer"], spiffe_id("client"), "{line}");
    Ok(())
}

#[test]
fn a_simulated_tee_that_was_not_allowed_is_a_wrong_configuration() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client"])?;
    let coordinator = Coordinator::start(&bed, &["client"])?;
    let workload = WorkloadConfig::without_certificate(bed.host("client"));
    let config = AgentConfig::new(vec![workload])?
        .enrolled(coordinator.config_for("client").for_production());
    let file = bed.directory().join("agent.toml");
    fs::write(&file, toml::to_string(&config)?)?;
    let finished = agent::command(None)?.arg("--config").arg(file).run(LIMIT)?;
    let said = finished.stderr_text();
    assert_eq!(finished.status.code(), Some(2), "{said}");
    assert!(said.contains("allow_simulated_tee"), "{said}");
    Ok(())
}

#[test]
fn a_manifest_update_under_traffic_drops_nothing() -> Result<()> {
    require!();
    let mut pair = EnrolledPair::start()?;
    let before = generation(&pair)?;
    let traffic = under_traffic(&mut pair, |pair| {
        pair.coordinator
            .update(|manifest| manifest["CertificateLifetime"] = "12h".into())?;
        pair.coordinator.wait_until_rotated()
    })?;
    assert_eq!(traffic.failures, [].into(), "{traffic:?}");
    let after = generation(&pair)?;
    assert!(after > before, "generation {before} to {after}");
    pair.assert_served()
}

#[test]
fn a_change_of_the_owners_under_traffic_drops_nothing() -> Result<()> {
    require!();
    let mut pair = EnrolledPair::start()?;
    let traffic = under_traffic(&mut pair, |pair| {
        pair.coordinator.update(|manifest| {
            if let Some(owners) = manifest["WorkloadOwnerKeyDigests"].as_array_mut() {
                owners.push("11".repeat(32).into());
            }
            manifest["UpdateQuorum"] = 1.into();
        })?;
        pair.coordinator.wait_until_rotated()
    })?;
    assert_eq!(traffic.failures, [].into(), "{traffic:?}");
    Ok(())
}

#[test]
fn a_killed_coordinator_and_its_recovery_under_traffic_drop_nothing() -> Result<()> {
    require!();
    let mut pair = EnrolledPair::start()?;
    let traffic = under_traffic(&mut pair, |pair| {
        pair.coordinator.kill()?;
        thread::sleep(Duration::from_secs(1));
        pair.coordinator.restart()?;
        pair.coordinator.recover()?;
        pair.coordinator.wait_until_rotated()
    })?;
    assert_eq!(traffic.failures, [].into(), "{traffic:?}");
    pair.assert_served()
}

#[test]
fn a_workload_that_leaves_the_manifest_loses_its_connections_within_two_seconds() -> Result<()> {
    require!();
    let mut pair = EnrolledPair::start()?;
    let policy = pair.coordinator.policy("client")?;
    let line = cut_by(&mut pair, |manifest| {
        manifest["Policies"]
            .as_object_mut()
            .map(|policies| policies.remove(&policy));
    })?;
    // Whichever agent hears of it first tells the other by an alert.
    let said = [
        line["close"].clone(),
        pair.client_agent.access(|_| true)?["close"].clone(),
    ];
    assert!(said.contains(&json!("identity-withdrawn")), "{said:?}");
    Ok(())
}

#[test]
fn a_peer_that_is_no_longer_allowed_is_cut_off_within_two_seconds() -> Result<()> {
    require!();
    let mut pair = EnrolledPair::start()?;
    let policy = pair.coordinator.policy("server")?;
    let line = cut_by(&mut pair, |manifest| {
        manifest["Policies"][&policy]["AllowedPeers"] = json!(["bystander"]);
    })?;
    assert_eq!(line["close"], "peer-not-allowed-any-more", "{line}");
    Ok(())
}

#[test]
fn while_the_coordinator_is_away_agents_go_on() -> Result<()> {
    require!();
    let mut pair = EnrolledPair::start()?;
    pair.coordinator.kill()?;
    pair.assert_served()?;
    pair.client_agent.wait_for("it does not say so", |agent| {
        let (ready, body) = agent.ready()?;
        Ok(ready && body.to_string().contains("unreachable"))
    })?;
    pair.assert_served()
}

#[test]
fn an_agent_refuses_a_coordinator_whose_store_was_rolled_back() -> Result<()> {
    require!();
    let mut pair = EnrolledPair::start()?;
    let (store, copy) = (
        pair.coordinator.file("history.redb"),
        pair.coordinator.file("history.copy"),
    );
    pair.coordinator.kill()?;
    fs::copy(&store, &copy)?;
    pair.coordinator.restart()?;
    pair.coordinator.recover()?;
    pair.coordinator.wait_until_rotated()?;
    pair.coordinator.kill()?;
    fs::copy(&copy, &store)?;
    pair.coordinator.restart()?;
    pair.coordinator.recover()?;
    pair.client_agent.wait_for("it does not notice", |agent| {
        let log = agent.log();
        Ok(log.contains("fork") || log.contains("older") || log.contains("rolled back"))
    })?;
    pair.assert_served()
}

#[test]
fn an_agent_that_starts_while_the_coordinator_recovers_waits_for_it() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server", "outsider"])?;
    let mut coordinator = Coordinator::start(&bed, &["client", "server"])?;
    coordinator.kill()?;
    coordinator.restart()?;
    let agent = Agent::start_unready(&bed, enrolled(&bed, &coordinator, "client")?)?;
    ensure!(!agent.ready()?.0, "ready without a certificate");
    coordinator.recover()?;
    agent.wait_until_ready()
}

#[test]
fn init_fetches_what_a_program_that_does_tls_itself_needs() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client"])?;
    let mut coordinator = Coordinator::start_without_manifest(&bed, &["client"])?;
    let policy = coordinator.policy("client")?;
    coordinator.update(|manifest| {
        manifest["Policies"][&policy]["WorkloadSecretID"] = "disk".into();
    })?;
    let directory = coordinator.init("client")?;
    for (name, mode) in [
        ("certChain.pem", 0o644),
        ("mesh-ca.pem", 0o644),
        ("coordinator-root-ca.pem", 0o644),
        ("key.pem", 0o400),
        ("workload-secret-seed", 0o400),
    ] {
        let metadata = fs::metadata(directory.join(name)).context(name)?;
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
    }
    let secret = fs::read_to_string(directory.join("workload-secret-seed"))?;
    assert_eq!(secret.len(), 128, "{} characters", secret.len());
    coordinator.kill()?;
    coordinator.restart()?;
    coordinator.recover()?;
    let again = fs::read_to_string(coordinator.init("client")?.join("workload-secret-seed"))?;
    assert_eq!(again, secret, "the secret is another after a recovery");
    Ok(())
}

/// New connections, one after the other in several lanes, all the while `work` is done and for a
/// second before and after: hundreds a second, depending on the machine.
fn under_traffic(
    pair: &mut EnrolledPair,
    work: impl FnOnce(&mut EnrolledPair) -> Result<()>,
) -> Result<peer::Many> {
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--echo")?;
    let started = Instant::now();
    let options = format!("--connections 4 --churn {}", TRAFFIC.as_secs());
    let traffic = peer::start_many(pair.client(), address, &options)?;
    thread::sleep(Duration::from_secs(1));
    work(pair)?;
    let worked = started.elapsed();
    ensure!(
        worked + Duration::from_secs(1) < TRAFFIC,
        "the work took {worked:?}, longer than the traffic"
    );
    let traffic = traffic.finish()?;
    eprintln!(
        "{} connections a second",
        traffic.exact * 1000 / traffic.milliseconds
    );
    ensure!(traffic.exact > 100, "there was no traffic: {traffic:?}");
    Ok(traffic)
}

/// What the server's agent says of a connection that an update cuts, within two seconds.
fn cut_by(pair: &mut EnrolledPair, change: impl FnOnce(&mut Value)) -> Result<Value> {
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--echo")?;
    let idle = Client::start(
        pair.client(),
        address,
        "--send 1000 --send-after first-byte",
    )?;
    idle.connected()?;
    pair.server_agent
        .wait_for("it has no connection", |agent| {
            Ok(!agent.connections()?.is_empty())
        })?;
    pair.coordinator.update(change)?;
    let updated = Instant::now();
    let line = pair.server_agent.access(|_| true)?;
    let took = updated.elapsed();
    ensure!(took < Duration::from_secs(2), "after {took:?}");
    Ok(line)
}

fn generation(pair: &EnrolledPair) -> Result<u64> {
    let status = pair.coordinator.status()?;
    status["rotation"]["generation"]
        .as_u64()
        .with_context(|| format!("no generation: {status}"))
}

const LIMIT: Duration = Duration::from_secs(10);
const TRAFFIC: Duration = Duration::from_secs(20);
