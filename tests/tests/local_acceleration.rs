//! `local_acceleration = "sk-msg"`: what programs send to the agent in small messages comes past the
//! loopback's TCP, and nobody can tell but by the clock.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use testbed::agent::Agent;
use testbed::pair::PORT;
use testbed::{Client, Pair, Server, Testbed, peer, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let address = bed.host("server").at(PORT);
    let _serving = Server::start(bed.host("server"), &[address], ANSWERS)?;
    let sniffer = bed.sniff()?;
    Client::run(bed.host("client"), address, CHAT)?.assert_exact(CHATTED, CHATTED);
    sniffer.finish()?.assert_saw_plaintext();
    Ok(())
}

#[test]
fn unless_asked_for_there_is_neither_a_map_nor_a_redirected_message() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let (said, ..) = pair.converse(CHAT, ANSWERS)?;
    said.assert_exact(CHATTED, CHATTED);
    for map in MAPS {
        assert!(pair.client_agent.pinned_map(map).is_err(), "{map}");
    }
    assert_eq!(redirected(&pair.client_agent)?, 0);
    assert_eq!(hops(&pair.client_agent, "tcp", "off")?, 1);
    Ok(())
}

#[test]
fn every_byte_of_a_chat_arrives_and_comes_back() -> Result<()> {
    require!();
    let pair = Pair::start_accelerated()?;
    for address in [pair.server().at(PORT), pair.server().at_v6(PORT)] {
        let before = redirected(&pair.client_agent)?;
        let serving = Server::start(pair.server(), &[address], ANSWERS)?;
        let sniffer = pair.bed.sniff()?;
        let said = Client::run(pair.client(), address, CHAT)?;
        said.assert_exact(CHATTED, CHATTED);
        let heard = serving.closed(0)?;
        heard.assert_exact(CHATTED, CHATTED);
        sniffer.finish()?.assert_only_ciphertext(2 * CHATTED);
        wait_for_redirected(&pair.client_agent, before)?;
    }
    assert_eq!(
        hops(&pair.client_agent, "sk-msg", "program-never-blocks")?,
        2
    );
    // Nothing comes from a program to the server's agent but on connections that it has dialled.
    assert_eq!(hops(&pair.server_agent, "tcp", "ingress")?, 2);
    assert_eq!(redirected(&pair.server_agent)?, 0);
    Ok(())
}

#[test]
fn messages_of_any_size_keep_their_order_whichever_way_each_goes() -> Result<()> {
    require!();
    let pair = Pair::start_accelerated()?;
    // The longest redirected message has 16 KiB; 64 KiB may be unread.
    for chunk in [100, 3000, 20_000, 40_000, 200_000] {
        let mixed =
            format!("--never-blocking --send-after first-byte --small-first 300 --chunk {chunk}");
        let bytes = (chunk * 1000).clamp(300_000, 30_000_000);
        let before = redirected(&pair.client_agent)?;
        pair.assert_exact(bytes, 1, &mixed, "--no-half-close")?;
        pair.assert_exact(bytes, bytes, &mixed, "--no-half-close --read-size 3000")?;
        wait_for_redirected(&pair.client_agent, before)?;
    }
    Ok(())
}

#[test]
fn slow_readers_and_tiny_buffers_lose_nothing() -> Result<()> {
    require!();
    let pair = Pair::start_accelerated()?;
    let tiny = "--never-blocking --send-after first-byte --small-first 300 --sndbuf 2048 --rcvbuf 2048 --chunk 5000";
    pair.assert_exact(1 << 20, 1 << 20, tiny, "--sndbuf 2048 --rcvbuf 2048")?;
    let slow = "--no-half-close --rcvbuf 4096 --read-size 4096 --read-pause 200";
    pair.assert_exact(4 << 20, 1, CHATTY_BULK, slow)?;
    wait_for_redirected(&pair.client_agent, 0)
}

#[test]
fn either_side_may_be_done_first() -> Result<()> {
    require!();
    let pair = Pair::start_accelerated()?;
    // The server's end comes while the client chats, then after the client's.
    let chat = "--write-pause 300 --chunk 300";
    pair.assert_exact(CHATTED, CHATTED / 4, CHAT_AT_LENGTH, chat)?;
    wait_for_redirected(&pair.client_agent, 0)?;
    let before = redirected(&pair.client_agent)?;
    let chat = "--never-blocking --chunk 300 --write-pause 300";
    pair.assert_exact(CHATTED, 3_000_000, chat, "--send-after end")?;
    wait_for_redirected(&pair.client_agent, before)
}

#[test]
fn data_in_a_syn_comes_before_what_is_redirected() -> Result<()> {
    require!();
    let pair = Pair::start_accelerated()?;
    // Every listener takes data in a SYN, from anybody.
    pair.client().sysctl("net/ipv4/tcp_fastopen", "0x603")?;
    for _ in 0..20 {
        let said = "--tcp-fastopen --never-blocking --chunk 300 --write-pause 300";
        pair.assert_exact(100_000, 0, said, "--no-half-close")?;
    }
    wait_for_redirected(&pair.client_agent, 0)
}

#[test]
fn a_reader_that_stops_stops_the_writer_as_without_acceleration() -> Result<()> {
    require!();
    let accepted = |pair: &Pair| -> Result<u64> {
        let address = pair.server().at(PORT);
        let stalled = "--send 1 --no-half-close --read-size 1000 --read-pause 100000000";
        let _serving = Server::start(pair.server(), &[address], stalled)?;
        let endless = format!("{CHATTY_BULK} --send 4000000000 --patience-in-poll 8000");
        Ok(Client::run(pair.client(), address, &endless)?.sent)
    };
    let plain = accepted(&Pair::start()?)?;
    let pair = Pair::start_accelerated()?;
    let accelerated = accepted(&pair)?;
    wait_for_redirected(&pair.client_agent, 0)?;
    // TCP's buffers grow as they like, so neither figure is always the same.
    assert!(
        accelerated < 2 * plain + (1 << 20) && accelerated < 32 << 20,
        "the kernel took {accelerated} bytes, and {plain} without acceleration"
    );
    Ok(())
}

#[test]
fn no_half_closing_program_that_blocks_sees_eagain() -> Result<()> {
    require!();
    let pair = Pair::start_accelerated()?;
    for (blocking, expected) in [("always", 1000), ("connected", 2000)] {
        half_close_a_thousand(&pair, blocking)?;
        assert_eq!(hops(&pair.client_agent, "tcp", "program-blocks")?, expected);
    }
    assert_eq!(redirected(&pair.client_agent)?, 0);
    Ok(())
}

#[test]
fn no_accelerated_program_that_begins_to_block_when_it_is_done_sees_eagain() -> Result<()> {
    require!();
    let pair = Pair::start_accelerated()?;
    half_close_a_thousand(&pair, "quiet")?;
    assert_eq!(
        hops(&pair.client_agent, "sk-msg", "program-never-blocks")?,
        1000
    );
    wait_for_redirected(&pair.client_agent, 0)
}

#[test]
fn a_killed_agent_resets_its_accelerated_connections_and_lets_nothing_out() -> Result<()> {
    require!();
    let mut pair = Pair::start_accelerated()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let endless = "--never-blocking --send 4000000000 --chunk 300 --write-pause 300";
    let client = Client::start(pair.client(), address, endless)?;
    client.connected()?;
    wait_for_redirected(&pair.client_agent, 0)?;
    pair.client_agent.kill()?;

    let said = client.closed()?;
    assert!(said.was_reset(), "{said:?}");
    assert_eq!(said.difference, None);
    assert!(serving.closed(0)?.was_reset());
    drop(serving); // of the same port
    let refused = Client::try_connect(pair.client(), address, CHAT)?;
    assert_eq!(
        refused.err().map(|(errno, _)| errno).as_deref(),
        Some("ECONNREFUSED")
    );
    sniffer.finish()?.assert_only_ciphertext(1000);

    pair.client_agent.restart()?;
    pair.client_agent.wait_until_ready()?;
    let before = redirected(&pair.client_agent)?;
    pair.assert_exact(CHATTED, 1, CHAT_AT_LENGTH, "--no-half-close")?;
    wait_for_redirected(&pair.client_agent, before)
}

#[test]
fn only_the_two_ends_of_an_accelerated_local_hop_are_in_the_maps() -> Result<()> {
    require!("bpftool");
    let pair = Pair::start_accelerated()?;
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], ANSWERS)?;
    let stays = "--linger 60000 --no-half-close";
    let chatting = Client::start(
        pair.client(),
        address,
        &format!("{CHAT} {stays} --stop-after {CHATTED}"),
    )?;
    let blocking = Client::start(pair.client(), address, &format!("--send 100 {stays}"))?;
    let local = chatting.connected()?.local.context("it has no address")?;
    blocking.connected()?;
    wait_for_redirected(&pair.client_agent, 0)?;

    let [agent_ends, program_ends] =
        ["AGENT_ENDS", "PROGRAM_ENDS"].map(|map| cookies(&pair.client_agent, map));
    let (agent_ends, program_ends) = (agent_ends?, program_ends?);
    assert_eq!(agent_ends, program_ends);
    let [cookie] = program_ends[..] else {
        panic!("not one connection alone is in the maps: {program_ends:?}")
    };
    // The kernel calls the socket by the same cookie.
    let sockets = pair
        .client()
        .command("ss")
        .args(["--tcp", "--numeric", "--extended", "--no-header"])
        .run(std::time::Duration::from_secs(10))?
        .success()?
        .text();
    let named = format!("sk:{cookie:x} ");
    let socket = sockets
        .lines()
        .find(|line| format!("{line} ").contains(&named))
        .with_context(|| format!("no {named}in\n{sockets}"))?;
    let ends: Vec<_> = socket
        .split_whitespace()
        .filter(|field| field.starts_with("127.0.0.1:"))
        .collect();
    assert_eq!(ends.len(), 2, "{socket}");
    assert!(ends[0].ends_with(&format!(":{}", local.port())), "{socket}");

    drop((chatting, blocking));
    pair.client_agent
        .wait_for("a closed socket is still in a map", |agent| {
            let left = ["AGENT_ENDS", "PROGRAM_ENDS"].map(|map| cookies(agent, map));
            Ok(left.into_iter().flatten().all(|cookies| cookies.is_empty()))
        })
}

/// Many small messages from a socket that never blocks, once the other side has said something: then
/// everything is established and the agent keeps up. And what they are altogether.
const CHAT: &str = "--never-blocking --send-after first-byte --send 400000 --seed 11 \
                    --expect-seed 22 --chunk 300 --write-pause 300";
const CHATTED: u64 = 400_000;
/// What the other side says to it.
const ANSWERS: &str = "--send 400000 --no-half-close --seed 22 --expect-seed 11";
/// The same, of any length.
const CHAT_AT_LENGTH: &str =
    "--never-blocking --send-after first-byte --chunk 300 --write-pause 300";
/// A few small messages, so that it is accelerated, and then as much as goes.
const CHATTY_BULK: &str = "--never-blocking --send-after first-byte --small-first 300 --chunk 3000";

const MAPS: [&str; 3] = ["AGENT_ENDS", "LOCAL_HOPS", "PROGRAM_ENDS"];

/// A thousand programs chat, half-close and read what is left, without an error.
fn half_close_a_thousand(pair: &Pair, blocking: &str) -> Result<()> {
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--echo --quiet")?;
    let options = format!("--connections 100 --in-turn 10 --ping-pong 12 --blocking {blocking}");
    for _ in 0..10 {
        let many = peer::many(pair.client(), address, &options)?;
        assert_eq!((many.exact, many.failures.len()), (100, 0), "{many:?}");
    }
    Ok(())
}

/// How many messages were redirected so far.
fn redirected(agent: &Agent) -> Result<u64> {
    let metrics = agent.metrics()?;
    Ok(metrics.sum("sealwire_redirected_messages_total", &[]))
}

/// The kernel's counters are read once a second.
fn wait_for_redirected(agent: &Agent, before: u64) -> Result<()> {
    agent.wait_for("no message was redirected", |agent| {
        Ok(redirected(agent)? > before)
    })
}

/// How often bytes began to pass this way for this reason.
fn hops(agent: &Agent, hop: &str, why: &str) -> Result<u64> {
    let metrics = agent.metrics()?;
    Ok(metrics.sum("sealwire_local_hops_total", &[("hop", hop), ("why", why)]))
}

/// The cookies of the programs' sockets whose connections are in a map.
fn cookies(agent: &Agent, map: &str) -> Result<Vec<u64>> {
    let dump = Command::new("bpftool")
        .args(["--json", "map", "dump", "pinned"])
        .arg(agent.pinned_map(map)?)
        .output()?;
    let entries: Vec<Value> = serde_json::from_slice(&dump.stdout)?;
    entries
        .iter()
        .map(|entry| {
            let key = entry["key"].as_array().context("no key")?;
            let bytes = key.iter().take(8).map(|byte| {
                let hex = byte.as_str().and_then(|text| text.strip_prefix("0x"));
                Ok(u8::from_str_radix(hex.context("no byte")?, 16)?)
            });
            let bytes = bytes.collect::<Result<Vec<u8>>>()?;
            let bytes: [u8; 8] = bytes.try_into().ok().context("a short key")?;
            Ok(u64::from_ne_bytes(bytes))
        })
        .collect()
}
