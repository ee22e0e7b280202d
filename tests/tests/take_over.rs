//! One agent takes the place of another, under load, and whatever becomes of either.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use testbed::agent::IngressRule;
use testbed::pair::PORT;
use testbed::{Client, Pair, Server, peer, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn twenty_take_overs_under_load_refuse_no_connection_and_lose_no_byte() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo --quiet")?;
    // Ephemeral ports run out where each is kept for a minute after use.
    for host in [pair.client(), pair.server()] {
        host.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    }
    let sniffer = pair.bed.sniff()?;
    let transfers = (0..TRANSFERS)
        .map(|_| {
            let slow = "--send 300000 --chunk 1000 --write-pause 100000";
            Client::start(pair.client(), address, slow)
        })
        .collect::<Result<Vec<_>>>()?;
    for transfer in &transfers {
        transfer.connected()?;
    }
    // 500 new ones each second, as far as no more than this are under way.
    let churn = "--connections 256 --until-told --rate 500";
    let churn = peer::start_many(pair.client(), address, churn)?;
    let mut predecessors = Vec::new();
    for _ in 0..10 {
        for agent in [&mut pair.client_agent, &mut pair.server_agent] {
            predecessors.push(agent.take_over(LONG)?);
            thread::sleep(Duration::from_millis(100));
        }
    }
    // Some after the last one.
    thread::sleep(Duration::from_secs(1));
    let churn = churn.stop()?;
    assert!(churn.failures.is_empty(), "{churn:?}");
    assert!(churn.exact > 1000, "{churn:?}");
    // Not eprintln!, which libtest swallows when a test passes.
    let rate = churn.exact * 1000 / churn.milliseconds;
    let _ = writeln!(std::io::stderr(), "{rate} new connections/s: {churn:?}");
    for transfer in transfers {
        transfer.closed()?.assert_exact(300_000, 300_000);
    }
    sniffer
        .finish()?
        .assert_only_ciphertext(TRANSFERS * 600_000 + churn.exact * 2 * 1024);
    // Each ends with its last connection, and with nothing to complain of.
    for predecessor in predecessors {
        let ended = predecessor.wait(LIMIT)?;
        assert!(ended.status.success(), "{:?}", ended.status);
        assert!(
            ended
                .stderr_text()
                .contains("the agent has ended; another one serves")
        );
        for line in ended.stderr_text().lines() {
            assert!(
                !line.contains("\"WARN\"") && !line.contains("\"ERROR\""),
                "{line}"
            );
        }
    }
    drop(serving);
    pair.assert_served()
}

#[test]
fn an_agent_that_can_not_start_leaves_the_old_one_serving() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    // Its rules are good, and a port of its listener is taken.
    let taken = pair.server().at(PORT);
    let _squatter = Server::start(pair.client(), &["127.137.0.1:5432".parse()?], "--echo")?;
    pair.client_agent.signal(Signal::SIGSTOP)?;
    pair.client_agent.rewrite(|config| {
        config.workloads()[0]
            .listener
            .push(testbed::agent::ListenerRule {
                listen: "127.137.0.1:5432".parse().expect("an address"),
                remote: taken.to_string(),
            });
    })?;
    pair.client_agent.signal(Signal::SIGCONT)?;
    let heir = pair.client_agent.start_heir(LONG)?.wait(LIMIT)?;
    assert_eq!(heir.status.code(), Some(2), "{}", heir.stderr_text());
    assert!(
        heir.stderr_text().contains("another program listens there"),
        "{}",
        heir.stderr_text()
    );
    pair.client_agent.wait_for("it does not say so", |agent| {
        Ok(agent.log().contains("this one goes on"))
    })?;
    pair.assert_served()
}

#[test]
fn an_agent_with_other_workers_is_told_to_have_as_many() -> Result<()> {
    require!();
    let pair = Pair::start_in_order()?;
    let heir = pair
        .client_agent
        .start_heir_with(LONG, &["--workers", "2"])?;
    let heir = heir.wait(LIMIT)?;
    assert_eq!(heir.status.code(), Some(2), "{}", heir.stderr_text());
    assert!(
        heir.stderr_text().contains("--workers 1"),
        "{}",
        heir.stderr_text()
    );
    pair.assert_served()
}

#[test]
fn heirs_that_are_killed_at_any_time_leave_one_agent_serving() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let sniffer = pair.bed.sniff()?;
    for nth in 0..16 {
        let heir = pair.server_agent.start_heir(LONG)?;
        thread::sleep(Duration::from_millis(30 * nth));
        let has_taken_over = heir.stderr().contains("taken over from the agent that ran");
        if has_taken_over {
            pair.server_agent.replace(heir);
        } else {
            drop(heir);
        }
        // It may have taken over in this very moment, and then nobody serves: nothing is in clear.
        if pair.server_agent.has_left() {
            pair.server_agent.kill()?;
            pair.server_agent.restart()?;
        }
        pair.server_agent.wait_until_ready()?;
        pair.assert_served()?;
    }
    sniffer.finish()?.assert_only_ciphertext(10_000);
    Ok(())
}

#[test]
fn a_holder_that_is_killed_while_it_hands_over_is_replaced_all_the_same() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    for _ in 0..4 {
        let heir = pair.server_agent.start_heir(LONG)?;
        pair.server_agent.wait_for("nobody takes over", |agent| {
            Ok(agent.log().contains("another agent takes over"))
        })?;
        pair.server_agent.kill()?;
        // Over what it was given, or as usual if that was not everything.
        pair.server_agent.replace(heir);
        pair.server_agent.wait_until_ready()?;
        pair.assert_served()?;
    }
    Ok(())
}

#[test]
fn what_outlasts_the_time_for_draining_is_reset_and_said() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo --quiet")?;
    let endless = "--send 4000000000 --chunk 3000 --write-pause 2000";
    let endless = Client::start(pair.client(), address, endless)?;
    endless.connected()?;
    let before = pair.client_agent.take_over(Duration::from_secs(1))?;
    let ended = before.wait(LIMIT)?;
    assert!(ended.status.success());
    assert!(
        ended.stderr_text().contains("agent-stopped"),
        "{}",
        ended.stderr_text()
    );
    assert!(endless.closed()?.was_reset());
    drop(serving);
    pair.assert_served()
}

#[test]
fn an_agent_takes_over_with_another_configuration() -> Result<()> {
    require!();
    let mut pair = Pair::start_with(|_, server| {
        server.ingress.push(IngressRule {
            port: PORT,
            mode: "tls",
            peers: Vec::new(),
        });
    })?;
    pair.assert_served()?;
    pair.server_agent.signal(Signal::SIGSTOP)?;
    pair.server_agent.rewrite(|config| {
        config.workloads()[0].ingress[0].mode = "mtls";
        config.workloads()[0].ingress[0].peers = vec!["nobody".to_owned()];
    })?;
    pair.server_agent.signal(Signal::SIGCONT)?;
    let _before = pair.server_agent.take_over(LONG)?;
    pair.server_agent.wait_until_ready()?;
    let _serving = Server::start(pair.server(), &[pair.server().at(PORT)], "--echo")?;
    let said = Client::run(pair.client(), pair.server().at(PORT), "--send 5000")?;
    assert_eq!(said.received, 0, "{said:?}");
    pair.server_agent.refusal("peer-not-allowed").map(|_| ())
}

#[test]
fn an_heir_with_other_programs_over_the_same_maps_takes_over() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let maps = pair.server_agent.pinned_map("PERMITTED")?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let slow = "--send 100000 --chunk 1000 --write-pause 60000";
    let slow = Client::start(pair.client(), address, slow)?;
    slow.connected()?;
    let newer = newer_version(&pair)?;
    let mut predecessors = Vec::new();
    for agent in [&mut pair.client_agent, &mut pair.server_agent] {
        agent.change_program(newer.clone());
        predecessors.push(agent.take_over(LONG)?);
        agent.wait_until_ready()?;
    }
    let new = Client::run(pair.client(), address, "--send 5000")?;
    new.assert_exact(5000, 5000);
    // They have the slow one still.
    assert!(predecessors.iter().all(|it| !it.has_ended()));
    slow.closed()?.assert_exact(100_000, 100_000);
    for nth in 0..2 {
        assert_eq!(serving.closed(nth)?.difference, None);
    }
    sniffer.finish()?.assert_only_ciphertext(210_000);
    for predecessor in predecessors {
        assert!(predecessor.wait(LIMIT)?.status.success());
    }
    assert_eq!(pair.server_agent.pinned_map("PERMITTED")?, maps);
    drop(serving);
    pair.assert_served()
}

/// The agent with another text in its eBPF object, as a new version has: another object, with the same maps.
fn newer_version(pair: &Pair) -> Result<PathBuf> {
    const TEXT: &[u8] = b"egress to port ";
    let mut program = fs::read(testbed::agent::binary())?;
    let at = program.windows(TEXT.len()).position(|part| part == TEXT);
    let at = at.context("the object has no such text any more")?;
    program[at..at + TEXT.len()].make_ascii_uppercase();
    let [written, newer] = ["written", "newer-agent"].map(|it| pair.bed.directory().join(it));
    fs::write(&written, program)?;
    fs::set_permissions(&written, Permissions::from_mode(0o755))?;
    // A program that other threads of this process start meanwhile has the written file open for a moment,
    // and nobody can start a file that is open for writing.
    let copied = Command::new("cp").arg(&written).arg(&newer).status()?;
    ensure!(copied.success(), "{copied}");
    Ok(newer)
}

#[test]
fn an_heir_in_another_cgroup_serves_once_the_old_agent_has_ended() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    for side in ["client", "server"] {
        let agent = if side == "client" {
            &mut pair.client_agent
        } else {
            &mut pair.server_agent
        };
        agent.change_cgroup(&pair.bed)?;
        let before = agent.take_over(LONG)?;
        assert!(before.wait(LIMIT)?.status.success());
        agent.wait_for("it does not hear of the end", |agent| {
            Ok(agent.log().contains("the agent that ran before has ended"))
        })?;
        pair.assert_served()?;
    }
    Ok(())
}

#[test]
fn where_no_agent_runs_one_that_would_take_over_starts_as_usual() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    pair.client_agent.kill()?;
    let heir = pair.client_agent.start_heir(LONG)?;
    pair.client_agent.replace(heir);
    pair.client_agent.wait_until_ready()?;
    pair.assert_served()
}

const TRANSFERS: u64 = 200;

const LONG: Duration = Duration::from_mins(10);

const LIMIT: Duration = Duration::from_mins(1);
