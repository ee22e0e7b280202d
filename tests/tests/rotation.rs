//! Certificates change while connections run.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use coordinator::pki::Validity;
use serde_json::Value;
use testbed::pair::PORT;
use testbed::pki::spiffe_id;
use testbed::{Client, Pair, Server, Testbed, require};
use time::OffsetDateTime;

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn a_renewed_certificate_counts_for_new_connections_and_running_ones_go_on() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let slow = "--send 400000 --chunk 4000 --write-pause 20000";
    let running = Client::start(pair.client(), address, slow)?;
    running.connected()?;
    serving.accepted(0)?;

    let before = not_after(&pair)?;
    renew(&pair, "client", "client")?;
    renew(&pair, "server", "server")?;
    pair.client_agent
        .wait_for("it does not load the new certificate", |_| {
            Ok(not_after(&pair)? != before)
        })?;
    // A certificate with another name shows which one a connection came with.
    renew(&pair, "renamed", "client")?;
    wait_for_identity(&pair, "renamed")?;

    running.closed()?.assert_exact(400_000, 400_000);
    sniffer.finish()?.assert_only_ciphertext(800_000);
    let old = pair
        .server_agent
        .access(|line| line["received"] == 400_000)?;
    assert_eq!(old["peer"], spiffe_id("client"), "{old}");
    Ok(())
}

#[test]
fn a_half_written_pair_is_never_loaded() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let live = pair.bed.directory().join("mesh/client");
    let staged = pair.mesh.issue_into("renamed", "staged", validity()?)?;
    let wait = || std::thread::sleep(Duration::from_millis(1500));

    fs::copy(staged.join("key.pem"), live.join("key.pem"))?;
    wait();
    assert_eq!(
        identity(&pair)?,
        spiffe_id("client"),
        "with a key of another certificate"
    );
    pair.assert_served()?;

    let whole = fs::read(staged.join("certChain.pem"))?;
    fs::write(live.join("certChain.pem"), &whole[..whole.len() / 3])?;
    wait();
    assert_eq!(
        identity(&pair)?,
        spiffe_id("client"),
        "with a third of a certificate"
    );
    pair.assert_served()?;

    fs::write(live.join("certChain.pem"), whole)?;
    wait_for_identity(&pair, "renamed")?;
    pair.assert_served()
}

#[test]
fn a_certificate_that_is_taken_away_stays_in_use_until_it_expires() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    fs::remove_file(pair.bed.directory().join("mesh/client/certChain.pem"))?;
    std::thread::sleep(Duration::from_millis(1500));
    pair.assert_served()
}

#[test]
fn a_directory_that_is_swapped_as_kubernetes_does_is_followed() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server", "outsider"])?;
    let mesh = testbed::pki::Mesh::new(&bed.directory().join("mesh"))?;
    let (first, second) = (mesh.issue("client")?, mesh.issue("renamed")?);
    let live = bed.directory().join("live");
    std::os::unix::fs::symlink(first, &live)?;
    let workload = |name, dir| testbed::WorkloadConfig::of(bed.host(name), dir);
    let client_agent = testbed::Agent::start(&bed, vec![workload("client", &live)])?;
    let server_agent =
        testbed::Agent::start(&bed, vec![workload("server", &mesh.issue("server")?)])?;
    let pair = Pair {
        client_agent,
        server_agent,
        mesh,
        bed,
    };
    pair.assert_served()?;

    let next = pair.bed.directory().join("next");
    std::os::unix::fs::symlink(second, &next)?;
    fs::rename(next, live)?;
    wait_for_identity(&pair, "renamed")?;
    pair.assert_served()
}

fn renew(pair: &Pair, workload: &str, directory: &str) -> Result<()> {
    pair.mesh.issue_into(workload, directory, validity()?)?;
    Ok(())
}

fn validity() -> Result<Validity> {
    Ok(Validity::lasting(
        OffsetDateTime::now_utc(),
        Duration::from_hours(30),
    )?)
}

fn wait_for_identity(pair: &Pair, workload: &str) -> Result<()> {
    pair.client_agent
        .wait_for("it does not load the new certificate", |_| {
            Ok(identity(pair)? == spiffe_id(workload))
        })
}

/// Who the client's workload is at present, as its agent says.
fn identity(pair: &Pair) -> Result<Value> {
    Ok(status(pair)?["identity"].clone())
}

fn not_after(pair: &Pair) -> Result<Value> {
    Ok(status(pair)?["certificate_not_after"].clone())
}

fn status(pair: &Pair) -> Result<Value> {
    let (_, body) = pair.client_agent.ready()?;
    body["workloads"]
        .get(0)
        .cloned()
        .with_context(|| format!("no workload in {body}"))
}
