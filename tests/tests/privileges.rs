//! Who may do what: what lets sockets past the guard is the agent's alone, and what reads peers' bytes
//! can do little else.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
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
fn no_worker_thread_can_call_bpf_or_gain_rights() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    for agent in [&pair.client_agent, &pair.server_agent] {
        let workers = threads(agent, "worker-")?;
        assert!(!workers.is_empty());
        for status in workers {
            assert_eq!(field(&status, "Seccomp")?, "2", "{status}");
            assert_eq!(field(&status, "NoNewPrivs")?, "1", "{status}");
            for set in ["CapEff", "CapPrm", "CapInh"] {
                let held = u64::from_str_radix(field(&status, set)?, 16)?;
                assert_eq!(held & (CAP_BPF | CAP_PERFMON | CAP_SYS_MODULE), 0, "{set}");
            }
        }
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
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    assert_plaintext_is_seen_without_agents()
}

const CAP_SYS_MODULE: u64 = 1 << 16;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

/// `/proc/PID/task/TID/status` of the threads whose names begin so.
fn threads(agent: &Agent, name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{}/task", agent.pid()?))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        if field(&status, "Name")?.starts_with(name) {
            found.push(status);
        }
    }
    Ok(found)
}

fn field<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim).with_context(|| format!("no {name}"))
}
