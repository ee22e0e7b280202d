//! Without a working agent there are no connections: not in, not out, and not in clear.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use testbed::agent::{Agent, AgentConfig, WorkloadConfig};
use testbed::pair::PORT;
use testbed::peer::Many;
use testbed::{Client, End, Host, Pair, Server, Testbed, peer, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let address = bed.host("server").at(PORT);
    let _serving = Server::start(bed.host("server"), &[address], "--echo --quiet")?;
    let sniffer = bed.sniff()?;
    let many = peer::many(bed.host("client"), address, "--connections 2 --churn 1")?;
    assert!(many.exact > 0, "{many:?}");
    sniffer.finish()?.assert_saw_plaintext();
    Ok(())
}

#[test]
fn an_agent_killed_in_mid_transfer_resets_its_connections() -> Result<()> {
    require!();
    for side in ["client", "server"] {
        let mut pair = Pair::start()?;
        let address = pair.server().at(PORT);
        let endless = "--send 4000000000 --write-pause 100";
        let serving = Server::start(pair.server(), &[address], endless)?;
        let sniffer = pair.bed.sniff()?;
        let client = Client::start(pair.client(), address, "")?;
        client.connected()?;
        pair.server_agent
            .wait_for("nothing is under way", |agent| {
                Ok(agent.metrics()?.sum("sealwire_bytes_total", &[]) > 100_000
                    || agent
                        .connections()?
                        .iter()
                        .any(|line| bytes(line) > 100_000))
            })?;
        if side == "client" {
            &mut pair.client_agent
        } else {
            &mut pair.server_agent
        }
        .kill()?;

        let said = client.closed()?;
        assert_eq!(
            said.end,
            End::Reset,
            "with the agent of the {side} killed: {said:?}"
        );
        assert_eq!(said.difference, None);
        let heard = serving.closed(0)?;
        assert!(
            heard.was_reset(),
            "with the agent of the {side} killed: {heard:?}"
        );
        sniffer.finish()?.assert_only_ciphertext(100_000);
    }
    Ok(())
}

#[test]
fn a_killed_agents_workload_is_refused_in_and_out_until_it_is_back() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    pair.assert_served()?;
    pair.client_agent.kill()?;
    assert_cut_off(&pair, pair.client(), pair.server())?;
    pair.client_agent.restart()?;
    pair.client_agent.wait_until_ready()?;
    pair.assert_served()?;

    pair.server_agent.kill()?;
    assert_cut_off(&pair, pair.server(), pair.client())?;
    pair.server_agent.restart()?;
    pair.server_agent.wait_until_ready()?;
    pair.assert_served()
}

#[test]
fn an_agent_stopped_on_request_leaves_its_workload_refused() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    pair.assert_served()?;
    let status = pair.client_agent.stop()?;
    assert_eq!(status.code(), Some(0), "{status}");
    assert_cut_off(&pair, pair.client(), pair.server())?;
    pair.client_agent.restart()?;
    pair.client_agent.wait_until_ready()?;
    pair.assert_served()
}

#[test]
fn a_frozen_agents_workload_is_refused_within_a_second() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    pair.assert_served()?;
    pair.client_agent.signal(Signal::SIGSTOP)?;
    thread::sleep(Duration::from_millis(1100));
    assert_cut_off(&pair, pair.client(), pair.server())?;
    pair.client_agent.signal(Signal::SIGCONT)?;
    pair.client_agent
        .wait_for("its heart does not beat again", |_| {
            Ok(pair.assert_served().is_ok())
        })?;
    assert!(pair.client_agent.refusals("agent-stale")? > 0);
    Ok(())
}

#[test]
fn a_frozen_agent_of_the_server_lets_nothing_in() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    pair.assert_served()?;
    pair.server_agent.signal(Signal::SIGSTOP)?;
    thread::sleep(Duration::from_millis(1100));
    assert_cut_off(&pair, pair.server(), pair.client())?;
    pair.server_agent.signal(Signal::SIGCONT)?;
    pair.server_agent
        .wait_for("its heart does not beat again", |_| {
            Ok(pair.assert_served().is_ok())
        })
}

#[test]
fn a_workload_without_a_certificate_is_refused_until_it_has_one() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let host = pair.outsider();
    let tls_dir = pair.bed.directory().join("mesh/outsider");
    fs::create_dir(&tls_dir)?;
    let config = AgentConfig::new(vec![WorkloadConfig::of(host, &tls_dir)])?;
    let agent = Agent::start_unready(&pair.bed, config)?;
    let (ready, why) = agent.ready()?;
    assert!(!ready, "{why}");
    assert_cut_off(&pair, host, pair.server())?;
    agent.refusal("no-credential")?;

    pair.mesh.issue("outsider")?;
    agent.wait_until_ready()?;
    assert_talks(host, pair.server())?;
    assert_talks(pair.client(), host)
}

#[test]
fn a_workload_with_an_expired_certificate_is_refused() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let host = pair.outsider();
    let expired = pair.mesh.issue_expired("outsider")?;
    let config = AgentConfig::new(vec![WorkloadConfig::of(host, &expired)])?;
    let agent = Agent::start_unready(&pair.bed, config)?;
    let (ready, why) = agent.ready()?;
    assert!(!ready, "{why}");
    assert!(why.to_string().contains("expired"), "{why}");
    assert_cut_off(&pair, host, pair.server())
}

#[test]
fn new_connections_are_refused_when_the_certificate_expires() -> Result<()> {
    require!();
    let starting = Instant::now();
    let pair = Pair::start()?;
    let host = pair.outsider();
    // As long as an agent takes to start here, and several times that.
    let lifetime = (starting.elapsed() * 2).max(Duration::from_secs(4));
    let started = Instant::now();
    let short = pair.mesh.issue_for("outsider", lifetime)?;
    let agent = Agent::start(&pair.bed, vec![WorkloadConfig::of(host, &short)])?;
    assert_talks(host, pair.server())?;

    thread::sleep((lifetime + Duration::from_secs(1)).saturating_sub(started.elapsed()));
    assert_cut_off(&pair, host, pair.server())?;
    let (ready, why) = agent.ready()?;
    assert!(!ready, "{why}");
    agent.refusal("credential-expired")?;
    Ok(())
}

#[test]
fn nothing_is_in_clear_while_an_agent_is_killed_and_comes_back() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo --quiet")?;
    // Ephemeral ports run out where each is kept for a minute after use.
    pair.client().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    let sniffer = pair.bed.sniff()?;
    let Pair {
        client_agent,
        server_agent,
        bed,
        ..
    } = &mut pair;
    // Connections one after the other, until both agents are back and for a round after that.
    let are_back = AtomicBool::new(false);
    let rounds = thread::scope(|scope| -> Result<_> {
        let churn = scope.spawn(|| -> Result<Vec<Many>> {
            let mut rounds = Vec::new();
            loop {
                let is_last = are_back.load(Ordering::SeqCst);
                rounds.push(peer::many(
                    bed.host("client"),
                    address,
                    "--connections 4 --churn 1",
                )?);
                if is_last {
                    return Ok(rounds);
                }
            }
        });
        let cycle = || -> Result<()> {
            for agent in [client_agent, server_agent] {
                thread::sleep(Duration::from_millis(800));
                agent.kill()?;
                thread::sleep(Duration::from_millis(400));
                agent.restart()?;
                agent.wait_until_ready()?;
            }
            Ok(())
        };
        let cycled = cycle();
        are_back.store(true, Ordering::SeqCst);
        cycled?;
        churn.join().expect("it does not panic")
    })?;
    let exact: u64 = rounds.iter().map(|many| many.exact).sum();
    assert!(exact > 0, "{rounds:?}");
    let failures = || rounds.iter().flat_map(|many| &many.failures);
    assert!(failures().count() > 0, "nothing was refused: {rounds:?}");
    assert!(
        failures().all(|(why, _)| !why.contains("came back")),
        "a connection ended as if it were complete: {rounds:?}"
    );
    sniffer.finish()?.assert_only_ciphertext(1000);
    drop(serving); // of the same port
    pair.assert_served()
}

#[test]
fn a_full_table_refuses_rather_than_lets_pass() -> Result<()> {
    require!("bpftool");
    let pair = Pair::start()?;
    let fill = pair.bed.directory().join("fill");
    let map = pair.client_agent.pinned_map("FLOWS")?;
    fs::write(&fill, flows_of_nobody(&map))?;
    let bpftool = Command::new("bpftool")
        .args(["batch", "file"])
        .arg(&fill)
        .output()?;
    let said = String::from_utf8_lossy(&bpftool.stderr);
    assert!(
        said.contains("Argument list too long"),
        "the table is not full: {said}"
    );

    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    refused(pair.client(), address)?;
    sniffer.finish()?.assert_no_plaintext();
    assert_eq!(serving.connections(), 0);
    pair.client_agent.refusal("flow-table-full")?;
    Ok(())
}

#[test]
fn a_detached_workload_talks_in_clear_on_purpose() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    pair.assert_served()?;
    for agent in [&mut pair.client_agent, &mut pair.server_agent] {
        agent.stop()?;
        agent.detach()?.success()?;
    }
    let (said, heard, capture) = pair.converse("--send 5000", "--send 5000")?;
    said.assert_exact(5000, 5000);
    heard.assert_exact(5000, 5000);
    capture.assert_saw_plaintext();
    Ok(())
}

#[test]
fn detaching_twice_is_no_error() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    pair.client_agent.stop()?;
    pair.client_agent.detach()?.success()?;
    pair.client_agent.detach()?.success()?;
    Ok(())
}

/// No program on `host` can connect to `other`, none is connected to, and nothing is in clear.
fn assert_cut_off(pair: &Pair, host: &Host, other: &Host) -> Result<()> {
    let (outbound, inbound) = (
        [other.at(OUT), other.at_v6(OUT)],
        [host.at(IN), host.at_v6(IN)],
    );
    let never_reached = Server::start(other, &outbound, "--echo")?;
    let never_entered = Server::start(host, &inbound, "--echo")?;
    let sniffer = pair.bed.sniff()?;
    for address in outbound {
        let (errno, after) = refused(host, address)?;
        assert_eq!(errno, "ECONNREFUSED", "to {address}");
        assert!(
            after < Duration::from_millis(500),
            "refused only after {after:?}"
        );
    }
    for address in inbound {
        // Either the SYN is refused, or the connection is reset before it carries anything.
        for from in [other, pair.outsider()] {
            if from.name() != host.name() {
                refused(from, address)?;
            }
        }
    }
    assert_eq!(
        (never_reached.connections(), never_entered.connections()),
        (0, 0)
    );
    sniffer.finish()?.assert_no_plaintext();
    Ok(())
}

/// Commands for bpftool that put more flows into the table than it holds.
fn flows_of_nobody(map: &Path) -> String {
    let value = "0 ".repeat(64);
    let update = |flow: u32| {
        let [a, b, c, d] = flow.to_le_bytes();
        let key = format!("255 255 255 255 {a} {b} {c} {d} {}", "0 ".repeat(24));
        format!(
            "map update pinned {} key {key}value {value}\n",
            map.display()
        )
    };
    (0..=MOST_FLOWS).map(update).collect()
}

/// The error of a connection, at `connect` or at once after it.
fn refused(from: &Host, to: SocketAddr) -> Result<(String, Duration)> {
    let client = Client::start(from, to, "--send 3000 --patience 2000")?;
    if let Err(refused) = client.outcome()? {
        return Ok(refused);
    }
    let closed = client.closed()?;
    ensure!(
        closed.was_reset(),
        "{} was let through to {to}: {closed:?}",
        from.name()
    );
    ensure!(
        closed.received == 0,
        "{} got an answer from {to}: {closed:?}",
        from.name()
    );
    Ok((
        "after connect".to_owned(),
        Duration::from_millis(closed.milliseconds),
    ))
}

fn assert_talks(from: &Host, to: &Host) -> Result<()> {
    let _serving = Server::start(to, &[to.at(PORT)], "--echo")?;
    Client::run(from, to.at(PORT), "--send 5000")?.assert_exact(5000, 5000);
    Ok(())
}

fn bytes(connection: &serde_json::Value) -> u64 {
    let of = |name: &str| connection[name].as_u64().unwrap_or(0);
    of("sent") + of("received")
}

/// The most that the agent's table of flows holds.
const MOST_FLOWS: u32 = 65536;
const OUT: u16 = 4001;
const IN: u16 = 4002;
