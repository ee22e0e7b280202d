//! The guard on a workload's devices, by whichever hook this kernel has: devices that come, and what
//! others do to the hook.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use testbed::pair::PORT;
use testbed::{Client, Host, Pair, Server, require, skip};

#[test]
fn a_device_that_appears_is_guarded() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let (client, outsider) = (pair.client(), pair.outsider());
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 78, 0, 2)), PORT);
    wire(client, outsider)?;
    let _serving = Server::start(outsider, &[address], "--echo")?;
    // Until a moment after it came, it is not.
    pair.client_agent
        .wait_for("what leaves by the new device is not dropped", |_| {
            gets_nothing_out(client, address)
        })?;
    pair.client_agent.refused(|line| {
        line["reason"] == "unsealed-segment" && line["to"] == address.to_string()
    })?;
    pair.assert_served()
}

#[test]
fn a_filter_before_the_guard_closes_the_workload_until_it_is_gone() -> Result<()> {
    require!("tc");
    if has_tcx() {
        skip::report("the guard is a tcx link here, which no clsact filter can get before");
        return Ok(());
    }
    let pair = Pair::start()?;
    pair.assert_served()?;

    // One instruction of classic BPF that lets everything pass. The youngest of one priority runs
    // first.
    let place = ["dev", "eth0", "egress", "pref", "1", "protocol", "all"];
    let pass = ["bpf", "direct-action", "bytecode", "1,6 0 0 0,"];
    tc(
        pair.client(),
        &[&["filter", "add"], &place[..], &pass].concat(),
    )?;
    pair.client_agent
        .wait_for("it is ready", |agent| Ok(!agent.ready()?.0))?;
    let (_, why) = pair.client_agent.ready()?;
    assert!(why.to_string().contains("runs before the guard"), "{why}");

    let address = pair.server().at(PORT);
    let (errno, _) = Client::try_connect(pair.client(), address, "")?
        .err()
        .context("it is let through")?;
    assert_eq!(errno, "ECONNREFUSED");
    let line = pair.client_agent.refusal("no-credential")?;
    let detail = line["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("runs before the guard"), "{line}");

    // Takes away both, theirs and the guard; the agent puts the guard back.
    tc(pair.client(), &[&["filter", "del"], &place[..]].concat())?;
    pair.client_agent.wait_until_ready()?;
    pair.assert_served()?;
    let listening = pair.outsider().at(PORT);
    let _serving = Server::start(pair.outsider(), &[listening], "--echo")?;
    assert!(gets_nothing_out(pair.client(), listening)?);
    Ok(())
}

/// A second wire between two hosts.
fn wire(one: &Host, other: &Host) -> Result<()> {
    let netns = other.netns();
    let name = netns.file_name().context("a namespace without a name")?;
    let name = name.to_string_lossy();
    one.ip(&format!(
        "link add eth1 type veth peer name eth1 netns {name}"
    ))?;
    for (host, address) in [(one, "10.78.0.1/24"), (other, "10.78.0.2/24")] {
        host.ip(&format!("addr add {address} dev eth1"))?;
        host.ip("link set eth1 up")?;
    }
    Ok(())
}

/// Whether a program of the host outside its workload's cgroup can't connect.
fn gets_nothing_out(host: &Host, to: SocketAddr) -> Result<bool> {
    let client = Client::start_outside_the_cgroup(host, to, "--send 10 --patience 1200")?;
    let connected = client.outcome()?.is_ok();
    Ok(!connected)
}

fn tc(host: &Host, arguments: &[&str]) -> Result<()> {
    let tc = host.command("tc").args(arguments);
    tc.run(Duration::from_secs(10))?.success().map(drop)
}

/// Linux 6.6 and newer.
fn has_tcx() -> bool {
    let release = fs::read_to_string(Path::new("/proc/sys/kernel/osrelease"));
    let release = release.unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    (number(), number()) >= (Some(6), Some(6))
}
