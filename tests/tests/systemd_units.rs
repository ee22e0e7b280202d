//! The units of `deploy/systemd` on a machine that boots: what a real systemd does with them, and with the agent.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use testbed::machine::{AGENT, shipped};
use testbed::pair::PORT;
use testbed::{Client, Machine, Server, Testbed, peer, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn systemd_calls_the_agent_no_more_exposed_than_the_guide_says() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&[])?;
    let mut machine = Machine::install(&bed, &[])?;
    machine.boot()?;
    let judged = machine.run("systemd-analyze", &["security", "--no-pager", AGENT])?;
    let judged = judged.success()?.text();
    // Not eprintln!, which libtest swallows when a test passes.
    let _ = writeln!(std::io::stderr(), "{judged}");
    let exposure = judged
        .lines()
        .find_map(|line| line.split_once("exposure level for sealwire-agent.service: "))
        .and_then(|(_, level)| level.split(' ').next())
        .context("no exposure level")?;
    assert!(exposure.parse::<f32>()? <= EXPOSURE, "{exposure}");
    Ok(())
}

#[test]
fn the_agent_counts_as_started_only_once_it_serves() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&[])?;
    let mut machine = Machine::install(&bed, &["client"])?;
    machine.boot()?;
    for _ in 0..5 {
        machine.systemctl(&["stop", AGENT])?.success()?;
        machine
            .systemctl(&["start", "--no-block", AGENT])?
            .success()?;
        machine.wait_for("it does not start", |machine| {
            Ok(machine.property(AGENT, "ActiveState")? == "active")
        })?;
        let (is_ready, ready) = machine.ready()?;
        assert!(is_ready, "{ready}");
        assert_eq!(machine.property(AGENT, "SubState")?, "running");
    }
    Ok(())
}

#[test]
fn workloads_of_units_talk_in_mutual_tls() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&[])?;
    let mut machine = Machine::install(&bed, &["client", "server"])?;
    machine.boot()?;
    assert_served(&bed, &machine)
}

#[test]
fn a_workload_says_nothing_in_clear_from_the_first_moment_of_each_boot() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&["outsider"])?;
    let mut machine = talker(&bed)?;
    let outsider = bed.host("outsider");
    // Would take, and answer, what comes in clear.
    let serving = Server::start(outsider, &[outsider.at(PORT)], "--echo --quiet")?;
    let sniffer = bed.sniff()?;
    for _ in 0..3 {
        machine.boot()?;
        machine.wait_for("the workload has not talked", |machine| {
            Ok(machine.metrics()?.sum("sealwire_refusals_total", &[]) > 0)
        })?;
        machine.cut_power()?;
    }
    sniffer.finish()?.assert_no_plaintext();
    drop(serving);
    Ok(())
}

/// What the test above would see of a drop-in without the order.
#[test]
fn a_workload_that_starts_before_the_agent_is_seen_in_clear() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&["outsider"])?;
    let mut machine = talker(&bed)?;
    let without_order = shipped("workload.conf")?.replace("sealwire-agent.service ", "");
    machine.drop_in("client.service", "sealwire.conf", &without_order)?;
    machine.drop_in(AGENT, "last.conf", "[Unit]\nAfter=client.service\n")?;
    let outsider = bed.host("outsider");
    let _serving = Server::start(outsider, &[outsider.at(PORT)], "--echo --quiet")?;
    let sniffer = bed.sniff()?;
    machine.boot()?;
    sniffer.finish()?.assert_saw_plaintext();
    Ok(())
}

#[test]
fn a_workload_does_not_start_where_the_agent_can_not() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&["outsider"])?;
    let mut machine = talker(&bed)?;
    machine.rewrite_as("nonsense = true\n")?;
    let outsider = bed.host("outsider");
    let serving = Server::start(outsider, &[outsider.at(PORT)], "--echo")?;
    let sniffer = bed.sniff()?;
    machine.boot()?;
    machine.wait_for("systemd has not tried again", |machine| {
        Ok(machine.property(AGENT, "NRestarts")?.parse::<u32>()? >= 2)
    })?;
    assert_eq!(
        machine.property("client.service", "ActiveState")?,
        "inactive"
    );
    assert_eq!(serving.connections(), 0);
    sniffer.finish()?.assert_no_plaintext();

    // systemd starts the agent again by itself, and the workload when it is told to.
    machine.rewrite(|_| {})?;
    machine.wait_for("the agent does not start", |machine| {
        Ok(machine.property(AGENT, "ActiveState")? == "active")
    })?;
    machine.systemctl(&["start", "client"])?.success()?;
    assert_eq!(machine.property("client.service", "ActiveState")?, "active");
    Ok(())
}

#[test]
fn what_connects_to_a_crashed_agent_waits_for_the_one_that_systemd_starts() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&[])?;
    let mut machine = Machine::install(&bed, &["client", "server"])?;
    machine.boot()?;
    let address = SocketAddr::new(machine.address(1), PORT);
    let _serving = Server::start_by(machine.peer("server")?, &[address], "--echo")?;
    let sniffer = bed.sniff()?;
    for _ in 0..ATTEMPTS {
        let crashed = main_process(&machine)?;
        machine
            .run("sh", &["-c", &format!("kill -KILL {crashed}")])?
            .success()?;
        let waiting = Client::start_by(machine.peer("client")?, address, "--send 5000")?;
        let is_connected = waiting.outcome()?.is_ok();
        let is_gone = machine.property(AGENT, "ActiveState")? == "activating";
        machine.wait_for("systemd has not started it again", |machine| {
            let main = main_process(machine)?;
            let state = machine.property(AGENT, "ActiveState")?;
            Ok(main != crashed && state == "active")
        })?;
        if is_connected && is_gone {
            waiting.closed()?.assert_exact(5000, 5000);
            let journal = machine.journal()?;
            assert!(
                journal.contains("taken back from the service manager"),
                "{journal}"
            );
            assert_eq!(machine.property("client.service", "ActiveState")?, "active");
            sniffer.finish()?.assert_only_ciphertext(10_000);
            return Ok(());
        }
        // The machine was too slow, or too fast.
    }
    bail!("no connection was made while the agent was away, in {ATTEMPTS} attempts")
}

#[test]
fn a_reload_puts_a_configuration_in_force_and_refuses_a_bad_one_whole() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&[])?;
    let mut machine = Machine::install(&bed, &["client", "server"])?;
    machine.boot()?;
    let deny = |cidr: &str| testbed::EgressRule::to(cidr, "deny");
    machine.rewrite(|config| config.workloads()[0].egress = vec![deny("192.0.2.0/24")])?;
    machine.systemctl(&["reload", AGENT])?.success()?;
    wait_for_configuration(&machine, |it| it["generation"] == 2)?;

    let server = format!("{}/32", machine.address(1));
    machine.rewrite(|config| {
        config.workloads()[0].egress = vec![deny(&server), deny("10.0.0.1/8")];
    })?;
    machine.systemctl(&["reload", AGENT])?.success()?;
    wait_for_configuration(&machine, |it| {
        it["generation"] == 2
            && it["refused"].as_str().is_some_and(|why| {
                why.contains("/etc/sealwire/agent.toml:") && why.contains("10.0.0.1/8")
            })
    })?;
    assert_served(&bed, &machine)
}

#[test]
fn a_workload_that_comes_later_is_taken_up_by_a_reload() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&[])?;
    let mut machine = Machine::install(&bed, &["client"])?;
    machine.boot()?;
    let agent = main_process(&machine)?;
    machine.add_workload("server")?;
    machine.systemctl(&["daemon-reload"])?.success()?;
    machine
        .systemctl(&["start", "sealwire-workload@server"])?
        .success()?;
    machine.systemctl(&["reload", AGENT])?.success()?;
    wait_for_configuration(&machine, |it| it["generation"] == 2)?;
    machine.systemctl(&["start", "server"])?.success()?;
    assert_served(&bed, &machine)?;
    assert_eq!(main_process(&machine)?, agent);
    Ok(())
}

#[test]
fn an_agent_that_stands_still_is_started_again() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&[])?;
    let mut machine = Machine::install(&bed, &["client", "server"])?;
    machine.drop_in(AGENT, "sooner.conf", "[Service]\nWatchdogSec=2s\n")?;
    machine.boot()?;
    let still = main_process(&machine)?;
    machine
        .run("sh", &["-c", &format!("kill -STOP {still}")])?
        .success()?;
    machine.wait_for("systemd has not started it again", |machine| {
        let main = main_process(machine)?;
        let state = machine.property(AGENT, "ActiveState")?;
        Ok(main != still && state == "active")
    })?;
    let journal = machine.journal()?;
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    assert_served(&bed, &machine)
}

#[test]
fn an_agent_that_takes_over_is_the_units_main_process() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&[])?;
    let mut machine = Machine::install(&bed, &["client", "server"])?;
    machine.drop_in(AGENT, "sooner.conf", "[Service]\nWatchdogSec=2s\n")?;
    machine.boot()?;
    let before = main_process(&machine)?;
    // As the guide says, but for the time.
    let take_over = "echo $$ >/sys/fs/cgroup/sealwire.slice/sealwire-agent.service/cgroup.procs
        NOTIFY_SOCKET=/run/systemd/notify WATCHDOG_USEC=2000000 setsid \
            sealwire-agent --config /etc/sealwire/agent.toml --take-over >/dev/null 2>&1 &";
    machine.run("sh", &["-c", take_over])?.success()?;
    machine.wait_for("the old one has not ended", |machine| {
        let is_gone = machine.run("sh", &["-c", &format!("kill -0 {before}")])?;
        Ok(!is_gone.status.success())
    })?;
    assert_ne!(main_process(&machine)?, before);
    assert_eq!(machine.property(AGENT, "ActiveState")?, "active");
    assert_eq!(machine.property("client.service", "ActiveState")?, "active");
    let heard = |machine: &Machine<'_>| machine.property(AGENT, "WatchdogTimestampMonotonic");
    for _ in 0..3 {
        let last = heard(&machine)?;
        machine.wait_for("it does not say that it lives", |machine| {
            Ok(heard(machine)? != last)
        })?;
    }
    assert_eq!(machine.property(AGENT, "NRestarts")?, "0");
    assert_served(&bed, &machine)
}

#[test]
fn a_stop_ends_the_agent_and_its_workloads_and_opens_nothing() -> Result<()> {
    require!(SYSTEMD, UNSHARE, NSENTER, KILL);
    let bed = Testbed::new(&[])?;
    let mut machine = Machine::install(&bed, &["client", "server"])?;
    machine.boot()?;
    machine.wait_for("its listeners are not kept", |machine| {
        Ok(machine
            .property(AGENT, "NFileDescriptorStore")?
            .parse::<u32>()?
            > 0)
    })?;
    machine.systemctl(&["stop", AGENT])?.success()?;
    let properties = [
        "ActiveState",
        "Result",
        "ExecMainStatus",
        "NFileDescriptorStore",
    ];
    let ended = properties.map(|name| machine.property(AGENT, name).unwrap_or_default());
    assert_eq!(ended, ["inactive", "success", "0", "0"]);
    for workload in ["client.service", "server.service"] {
        assert_eq!(machine.property(workload, "ActiveState")?, "inactive");
    }
    machine
        .systemctl(&["start", "client", "server"])?
        .success()?;
    assert_served(&bed, &machine)
}

/// A machine whose workload talks to the outsider, in clear as far as it knows, from when it is started.
fn talker(bed: &Testbed) -> Result<Machine<'_>> {
    let machine = Machine::install(bed, &["client"])?;
    let to = bed.host("outsider").at(PORT);
    let peer = peer::binary()?;
    let talk = format!(
        "{} many --to {to} --churn 3600 --every 1000",
        peer.display()
    );
    machine.drop_in(
        "client.service",
        "talk.conf",
        &format!("[Service]\nExecStart=\nExecStart={talk}\n"),
    )?;
    Ok(machine)
}

/// The first workload sends to the second and back: every byte arrives, none in clear.
fn assert_served(bed: &Testbed, machine: &Machine<'_>) -> Result<()> {
    let address = SocketAddr::new(machine.address(1), PORT);
    let _serving = Server::start_by(machine.peer("server")?, &[address], "--echo")?;
    let sniffer = bed.sniff()?;
    Client::start_by(machine.peer("client")?, address, "--send 50000")?
        .closed()?
        .assert_exact(50_000, 50_000);
    sniffer.finish()?.assert_only_ciphertext(100_000);
    Ok(())
}

fn main_process(machine: &Machine<'_>) -> Result<String> {
    let main = machine.property(AGENT, "MainPID")?;
    // A signal to process 0 would go to the test itself.
    anyhow::ensure!(main != "0", "the agent does not run");
    Ok(main)
}

/// Waits for what `/ready` says of the configuration.
fn wait_for_configuration(
    machine: &Machine<'_>,
    is_there: impl Fn(&serde_json::Value) -> bool,
) -> Result<()> {
    machine.wait_for("it does not say so in /ready", |machine| {
        let (is_ready, ready) = machine.ready()?;
        anyhow::ensure!(is_ready && is_there(&ready["configuration"]), "{ready}");
        Ok(true)
    })
}

const ATTEMPTS: usize = 20;
/// As the guide says, of 10.
const EXPOSURE: f32 = 5.0;
const SYSTEMD: &str = "/lib/systemd/systemd";
/// Of the unit's `ExecReload`.
const KILL: &str = "/bin/kill";
const UNSHARE: &str = "unshare";
const NSENTER: &str = "nsenter";
