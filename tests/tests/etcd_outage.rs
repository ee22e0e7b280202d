//! etcd is gone for longer than several certificates live: it hangs, or it is dead. Certificates
//! are issued as ever, nothing can be set, and nothing is lost.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testbed::pair::{EnrolledPair, PORT, enrolled};
use testbed::{Agent, Client, Coordinator, Etcd, Server, Testbed, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn while_etcd_is_dead_agents_renew_and_nothing_is_set_and_nothing_is_lost() -> Result<()> {
    require!("etcd");
    outage(Etcd::kill, Etcd::restart)
}

#[test]
fn while_etcd_hangs_agents_renew_and_nothing_is_set_and_nothing_is_lost() -> Result<()> {
    require!("etcd");
    outage(|etcd| etcd.freeze(), |etcd| etcd.thaw())
}

#[test]
fn where_the_coordinators_are_gone_as_well_agents_refuse_when_their_certificates_expire()
-> Result<()> {
    require!("etcd");
    let (mut etcd, mut other, mut pair) = start()?;
    etcd.kill()?;
    other.kill()?;
    pair.coordinator.kill()?;
    pair.assert_served()?;
    for agent in [&pair.client_agent, &pair.server_agent] {
        wait_long(agent, "its certificate does not expire", |agent| {
            let (ready, body) = agent.ready()?;
            Ok(!ready && body.to_string().contains("has expired"))
        })?;
    }
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let refused = Client::start(pair.client(), address, "--send 3000 --patience 2000")?;
    let outcome = refused.outcome()?;
    let (errno, _) = outcome.err().context("the connection was let through")?;
    assert_eq!(errno, "ECONNREFUSED");
    sniffer.finish()?.assert_no_plaintext();
    drop(serving); // of the same port

    etcd.restart()?;
    pair.coordinator.restart()?;
    pair.coordinator.recover()?;
    other.restart()?;
    other.wait_until_ready()?;
    for agent in [&pair.client_agent, &pair.server_agent] {
        wait_long(agent, "it is not ready again", |agent| Ok(agent.ready()?.0))?;
    }
    pair.assert_served()
}

/// Two Coordinators on one etcd that is away, from `begin` to `end`, for the life of several
/// certificates.
fn outage(begin: fn(&mut Etcd) -> Result<()>, end: fn(&mut Etcd) -> Result<()>) -> Result<()> {
    let (mut etcd, mut other, pair) = start()?;
    pair.coordinator.wait_until_rotated()?;
    let seq = pair.coordinator.status()?["seq"].clone();
    begin(&mut etcd)?;
    for coordinator in [&pair.coordinator, &other] {
        coordinator.wait_for_ready(|answer| {
            answer.status == 200 && answer.body.contains("store-unavailable")
        })?;
        let metrics = coordinator.metrics()?;
        assert_eq!(
            metrics.sum("sealwire_coordinator_store_unavailable", &[]),
            1
        );
    }
    let refused = other.try_update(|manifest| manifest["CertificateLifetime"] = "11s".into())?;
    let said = refused.stderr_text();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("store-unavailable"), "{said}");
    assert!(said.contains("`sealwire status`"), "{said}");

    let before = issued(&pair.client_agent)?;
    wait_long(&pair.client_agent, "it does not renew", |agent| {
        pair.assert_served()?;
        Ok(issued(agent)? >= before + RENEWALS)
    })?;
    assert_eq!(pair.coordinator.status()?["seq"], seq);

    end(&mut etcd)?;
    pair.coordinator.wait_until_ready()?;
    other.wait_until_ready()?;
    assert_eq!(pair.coordinator.status()?["seq"], seq);
    other
        .try_update(|manifest| manifest["CertificateLifetime"] = "12s".into())?
        .success()?;
    other.wait_until_rotated()?;
    pair.coordinator.wait_until_rotated()?;
    let (one, two) = (pair.coordinator.status()?, other.status()?);
    assert_eq!(one["transition"], two["transition"]);
    // The manifest, and the two steps of its rotation: once each.
    assert_eq!(
        one["seq"].as_u64(),
        seq.as_u64().map(|seq| seq + 3),
        "{one}"
    );
    pair.assert_served()
}

/// Certificates that live as short as they can.
fn start() -> Result<(Etcd, Coordinator, EnrolledPair)> {
    let bed = Testbed::new(&["client", "server", "outsider"])?;
    let etcd = Etcd::start(&bed)?;
    let workloads = ["client", "server", "bystander"];
    let [coordinator, other] = Coordinator::start_on(&bed, &workloads, &etcd, |manifest| {
        manifest["CertificateLifetime"] = "10s".into();
    })?;
    let pair = EnrolledPair {
        client_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "client")?)?,
        server_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "server")?)?,
        coordinator,
        bed,
    };
    Ok((etcd, other, pair))
}

fn issued(agent: &Agent) -> Result<u64> {
    let metrics = agent.metrics()?;
    Ok(metrics.sum("sealwire_enrolments_total", &[("result", "issued")]))
}

fn wait_long(agent: &Agent, otherwise: &str, holds: impl Fn(&Agent) -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while !holds(agent)? {
        ensure!(Instant::now() < deadline, "{otherwise}: {}", agent.log());
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Of certificates that live ten seconds: more than two of their lives.
const RENEWALS: u64 = 4;
const LONG: Duration = Duration::from_secs(90);
