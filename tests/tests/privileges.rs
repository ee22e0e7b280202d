//! Who may do what: what lets sockets past the guard is the agent's alone, what reads peers' bytes can do
//! little else, and what calls bpf(2) reads nobody's.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testbed::pair::{PORT, assert_plaintext_is_seen_without_agents};
use testbed::{Agent, Client, Pair, Server, peer, require};

#[test]
fn a_program_without_the_token_can_permit_nothing() -> Result<()> {
    require!("bpftool");
    let pair = Pair::start()?;
    pair.assert_served()?;
    let own = pair.client_agent.cgroup().to_owned();
    let below = own.join("below");
    fs::create_dir(&below)?;
    let token = token_of(&pair.client_agent)?;
    let others = token_of(&pair.server_agent)?;
    let guesses = [
        "00".repeat(16),
        "5ea1".repeat(8),
        token[..16].to_owned(),
        others,
    ];
    let outsider = pair.outsider();
    for address in [outsider.at(PORT), outsider.at_v6(PORT)] {
        let serving = Server::start(outsider, &[address], "--send 1000")?;
        let before = pair.client_agent.refusals("unsealed-segment")?;
        let sniffer = pair.bed.sniff()?;
        for cgroup in [&own, &below] {
            for guess in &guesses {
                let client = ask(&pair, cgroup, address, guess)?;
                let error = client
                    .asked()?
                    .context("the guess was taken for the token")?;
                assert!(
                    ["ENOPROTOOPT", "EOPNOTSUPP"].contains(&error.as_str()),
                    "{error}"
                );
                assert!(client.outcome()?.is_err(), "it is past the guard");
            }
        }
        sniffer.finish()?.assert_no_plaintext();
        assert_eq!(serving.connections(), 0);
        assert!(pair.client_agent.refusals("unsealed-segment")? > before);

        // Who knows it is let past, so the guesses above were all that was wrong.
        let sniffer = pair.bed.sniff()?;
        let client = ask(&pair, &below, address, &token)?;
        assert_eq!(client.asked()?, None);
        client.closed()?.assert_exact(1000, 1000);
        serving.closed(0)?.assert_exact(1000, 1000);
        sniffer.finish()?.assert_saw_plaintext();
    }
    pair.assert_served()
}

/// A program in the client's namespace, and there in none of the workload's cgroups, that asks to be
/// let past the guard and then connects.
fn ask(pair: &Pair, cgroup: &Path, to: SocketAddr, token: &str) -> Result<Client> {
    let command = peer::command(pair.client())?.in_cgroup(cgroup);
    let options = format!("--send 1000 --patience 300 --permit-by {token}");
    Client::start_by(command, to, &options)
}

/// What shows that a program is an agent of this instance, in hexadecimal.
fn token_of(agent: &Agent) -> Result<String> {
    let dump = Command::new("bpftool")
        .args(["--json", "map", "lookup", "pinned"])
        .arg(agent.pinned_map("TOKEN")?)
        .args(["key", "0", "0", "0", "0"])
        .output()?;
    let entry: Value = serde_json::from_slice(&dump.stdout)?;
    let bytes = entry["value"].as_array().context("no value")?;
    Ok(bytes
        .iter()
        .filter_map(|byte| byte.as_str()?.strip_prefix("0x"))
        .collect())
}

#[test]
fn no_thread_of_an_agent_can_call_bpf_or_gain_rights() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    for agent in [&pair.client_agent, &pair.server_agent] {
        assert_cannot_call_bpf(agent)?;
        assert!(named(&threads(agent.pid()?)?, "worker-")? > 0);
        assert_eq!(descriptors(agent.pid()?, "anon_inode:bpf-prog")?, 0);
    }
    // With what they have left they serve.
    let server = pair.server();
    for address in [server.at(PORT), server.at_v6(PORT)] {
        let serving = Server::start(server, &[address], "--send 100000")?;
        let sniffer = pair.bed.sniff()?;
        let closed = Client::run(pair.client(), address, "--send 100000")?;
        closed.assert_exact(100_000, 100_000);
        serving.closed(0)?.assert_exact(100_000, 100_000);
        sniffer.finish()?.assert_only_ciphertext(200_000);
    }
    Ok(())
}

#[test]
fn nor_can_one_that_accelerates_local_hops() -> Result<()> {
    require!();
    let pair = Pair::start_accelerated()?;
    pair.assert_served()?;
    for agent in [&pair.client_agent, &pair.server_agent] {
        assert_cannot_call_bpf(agent)?;
    }
    Ok(())
}

#[test]
fn a_loader_has_no_connection_to_anybody_but_its_agent() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    pair.assert_served()?;
    for agent in [&pair.client_agent, &pair.server_agent] {
        let loader = agent.loader()?;
        let threads = threads(loader)?;
        assert_eq!(named(&threads, "sealwire-loader")?, 1);
        for status in &threads {
            assert_eq!(field(status, "Seccomp")?, "2", "{status}");
            assert_eq!(field(status, "NoNewPrivs")?, "1", "{status}");
            for set in ["CapEff", "CapPrm", "CapInh"] {
                let held = u64::from_str_radix(field(status, set)?, 16)?;
                let others = CAP_SYS_MODULE | CAP_NET_RAW | CAP_NET_BIND_SERVICE;
                assert_eq!(held & others, 0, "{set}");
            }
        }
        // The channel, and nothing of any network, while the agent has many.
        assert_eq!(descriptors(loader, "socket:")?, 1);
        assert!(descriptors(agent.pid()?, "socket:")? > 10);
        assert!(descriptors(loader, "anon_inode:bpf-prog")? > 0);
    }
    Ok(())
}

#[test]
fn an_agent_whose_loader_dies_refuses_and_ends() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    pair.assert_served()?;
    let address = pair.server().at(PORT);
    kill(pair.server_agent.loader()?, Signal::SIGKILL)?;
    let ended = pair.server_agent.ended()?;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr_text());
    assert!(
        ended.stderr_text().contains("the loader has ended"),
        "{}",
        ended.stderr_text()
    );

    let serving = Server::start(pair.server(), &[address], "--send 1000")?;
    let sniffer = pair.bed.sniff()?;
    let elsewhere = pair.outsider().at(PORT);
    for (from, to) in [(pair.outsider(), address), (pair.server(), elsewhere)] {
        let client = Client::start(from, to, "--send 1000 --patience 300")?;
        assert!(client.outcome()?.is_err(), "it was let through to {to}");
    }
    sniffer.finish()?.assert_no_plaintext();
    assert_eq!(serving.connections(), 0);
    drop(serving);

    pair.server_agent.restart()?;
    pair.server_agent.wait_until_ready()?;
    pair.assert_served()
}

#[test]
fn a_loader_ends_with_an_agent_that_is_killed() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let loader = pair.client_agent.loader()?;
    assert!(Path::new(&format!("/proc/{loader}")).exists());
    pair.client_agent.kill()?;
    pair.client_agent.renew_cgroup()?;
    // Init takes what has no parent any more.
    let status = fs::read_to_string(format!("/proc/{loader}/status"));
    assert!(status.is_err() || field(&status?, "State")?.starts_with('Z'));
    Ok(())
}

#[test]
fn a_loader_that_nobody_asked_for_says_who_starts_it() -> Result<()> {
    require!();
    let ended = Command::new(testbed::agent::binary())
        .arg0("sealwire-loader")
        .output()?;
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr)?;
    assert!(said.contains("started by sealwire-agent"), "{said}");
    Ok(())
}

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    assert_plaintext_is_seen_without_agents()
}

const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
const CAP_NET_RAW: u64 = 1 << 13;
const CAP_SYS_MODULE: u64 = 1 << 16;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

fn assert_cannot_call_bpf(agent: &Agent) -> Result<()> {
    let threads = threads(agent.pid()?)?;
    assert!(threads.len() > 2);
    for status in threads {
        assert_eq!(field(&status, "Seccomp")?, "2", "{status}");
        assert_eq!(field(&status, "NoNewPrivs")?, "1", "{status}");
        for set in ["CapEff", "CapPrm", "CapInh"] {
            let held = u64::from_str_radix(field(&status, set)?, 16)?;
            assert_eq!(held & (CAP_BPF | CAP_PERFMON | CAP_SYS_MODULE), 0, "{set}");
        }
    }
    Ok(())
}

/// `/proc/PID/task/TID/status` of all threads of a process.
fn threads(process: Pid) -> Result<Vec<String>> {
    let threads = fs::read_dir(format!("/proc/{process}/task"))?;
    threads
        .map(|thread| Ok(fs::read_to_string(thread?.path().join("status"))?))
        .collect()
}

/// How many have names that begin so.
fn named(threads: &[String], name: &str) -> Result<usize> {
    let mut found = 0;
    for status in threads {
        found += usize::from(field(status, "Name")?.starts_with(name));
    }
    Ok(found)
}

/// How many things a process has open whose descriptors' links begin so.
fn descriptors(process: Pid, link: &str) -> Result<usize> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd"))?;
    let links = descriptors
        .flatten()
        .filter_map(|it| fs::read_link(it.path()).ok());
    let links: HashSet<_> = links
        .filter(|it| it.to_string_lossy().starts_with(link))
        .collect();
    Ok(links.len())
}

fn field<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim).with_context(|| format!("no {name}"))
}
