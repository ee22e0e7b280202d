//! What goes in comes out: every byte, in order, both ways, and the end as it was meant.

use std::time::Duration;

use anyhow::Result;
use testbed::pair::{self, PORT};
use testbed::{Client, End, Pair, Server, Testbed, peer, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn streams_of_any_length_arrive_unchanged_in_both_directions() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let record = 1 << 14; // the most that a TLS record holds
    for size in [
        1,
        2,
        1023,
        record - 1,
        record,
        record + 1,
        100_000,
        16 << 20,
    ] {
        pair.assert_exact(size, 0, "", "")?;
        pair.assert_exact(0, size, "", "")?;
        pair.assert_exact(size, size, "", "")?;
    }
    Ok(())
}

#[test]
fn a_connection_that_says_nothing_ends_cleanly() -> Result<()> {
    require!();
    Pair::start()?.assert_exact(0, 0, "", "")
}

#[test]
fn every_byte_of_an_echo_comes_back() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let (said, heard, capture) = pair.converse("--send 8000000 --chunk 5000", "--echo")?;
    said.assert_exact(8_000_000, 8_000_000);
    assert_eq!((heard.received, heard.sent), (8_000_000, 8_000_000));
    capture.assert_only_ciphertext(16_000_000);
    Ok(())
}

#[test]
fn chunks_of_a_few_bytes_arrive_unchanged() -> Result<()> {
    require!();
    Pair::start()?.assert_exact(40_000, 40_000, "--chunk 7", "--chunk 3")
}

#[test]
fn tiny_buffers_and_slow_readers_lose_nothing() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let tiny = "--sndbuf 2048 --rcvbuf 2048 --chunk 5000";
    pair.assert_exact(1 << 20, 1 << 20, tiny, tiny)?;
    let slow = "--rcvbuf 4096 --read-size 4096 --read-pause 200";
    pair.assert_exact(4 << 20, 0, "", slow)?;
    pair.assert_exact(0, 4 << 20, slow, "")
}

#[test]
fn a_reader_that_stops_stops_the_writer() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let stalled = "--read-size 1000 --read-pause 20000000";
    let _serving = Server::start(pair.server(), &[address], stalled)?;
    let before = pair.client_agent.resident_bytes()? + pair.server_agent.resident_bytes()?;
    let _sending = Client::start(pair.client(), address, "--send 4000000000")?;
    std::thread::sleep(Duration::from_secs(2));
    let after = pair.client_agent.resident_bytes()? + pair.server_agent.resident_bytes()?;
    assert!(
        after < before + (16 << 20),
        "the agents hold {} bytes more",
        after - before
    );
    Ok(())
}

#[test]
fn a_client_that_is_done_still_hears_the_answer() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    pair.assert_exact(70_000, 3_000_000, "", "--send-after end")?;
    pair.assert_exact(0, 3_000_000, "", "--send-after end")
}

#[test]
fn a_server_that_is_done_still_hears_the_client() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    pair.assert_exact(3_000_000, 70_000, "--send-after end", "")?;
    pair.assert_exact(3_000_000, 0, "--send-after end", "")
}

#[test]
fn a_server_may_speak_first() -> Result<()> {
    require!();
    Pair::start()?.assert_exact(5000, 20, "--send-after first-byte", "")
}

#[test]
fn a_reset_is_passed_on_as_a_reset() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let resets = "--send 1000 --no-half-close --stop-after 1000 --reset";
    let (_, heard, capture) = pair.converse(resets, "--send 1000 --no-half-close")?;
    assert_eq!(heard.end, End::Reset, "{heard:?}");
    capture.assert_no_plaintext();

    let (said, _, capture) = pair.converse("--send 1000 --no-half-close", resets)?;
    assert_eq!(said.end, End::Reset, "{said:?}");
    capture.assert_no_plaintext();
    Ok(())
}

#[test]
fn a_connection_that_closes_both_ways_at_once_ends_on_both_sides() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let (_, heard, _) = pair.converse("--send 5000 --no-half-close --stop-after 5000", "--echo")?;
    assert_eq!((heard.received, heard.sent), (5000, 5000), "{heard:?}");
    pair.client_agent.wait_until_idle()?;
    pair.server_agent.wait_until_idle()
}

#[test]
fn a_quiet_connection_stays_open() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    pair.assert_exact(
        3,
        3,
        "--chunk 1 --write-pause 1200000",
        "--chunk 1 --write-pause 1100000",
    )
}

#[test]
fn each_connection_is_counted_and_logged_with_its_bytes() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    pair.assert_exact(5000, 7000, "", "")?;
    for (agent, direction, us, them) in [
        (&pair.client_agent, "egress", "client", "server"),
        (&pair.server_agent, "ingress", "server", "client"),
    ] {
        let line = agent.access(|line| line["direction"] == direction)?;
        let mut bytes = [line["sent"].as_u64(), line["received"].as_u64()];
        bytes.sort_unstable();
        assert_eq!(bytes, [Some(5000), Some(7000)], "{line}");
        assert_eq!(line["workload"], us);
        assert_eq!(line["mode"], "mtls");
        let datapath = pair::wanted_datapath().unwrap_or_else(|| "userspace".to_owned());
        assert_eq!(line["datapath"], datapath, "{line}");
        assert_eq!(line["identity"], testbed::pki::spiffe_id(us), "{line}");
        assert_eq!(line["peer"], testbed::pki::spiffe_id(them), "{line}");
        assert_eq!(line["key_exchange"], "X25519MLKEM768", "{line}");
        assert!(
            line["cipher"]
                .as_str()
                .is_some_and(|cipher| cipher.contains("AES")),
            "{line}"
        );

        let metrics = agent.metrics()?;
        let labels = [("workload", us), ("direction", direction)];
        assert_eq!(metrics.sum("sealwire_connections_total", &labels), 1);
        assert_eq!(metrics.sum("sealwire_bytes_total", &labels), 12_000);
    }
    Ok(())
}

#[test]
fn one_worker_keeps_connections_in_the_order_in_which_they_were_made() -> Result<()> {
    require!();
    let pair = Pair::start_in_order()?;
    assert_in_order(&pair.bed)
}

#[test]
fn without_an_agent_connections_are_accepted_in_order_too() -> Result<()> {
    require!();
    assert_in_order(&Testbed::new(&["client", "server"])?)
}

/// Some programs tell their connections apart by nothing else: iperf3 does, in both directions.
fn assert_in_order(bed: &Testbed) -> Result<()> {
    let address = bed.host("server").at(PORT);
    let serving = Server::start(bed.host("server"), &[address], "--echo")?;
    let many = peer::many(bed.host("client"), address, "--in-order --connections 50")?;
    assert_eq!(many.exact, 50, "{many:?}");
    let accepted = (0..50).map(|nth| Ok(serving.accepted(nth)?.accepted_from));
    let accepted = accepted
        .collect::<Result<Option<Vec<_>>>>()?
        .unwrap_or_default();
    let ports: Vec<_> = accepted.iter().map(std::net::SocketAddr::port).collect();
    assert_eq!(ports, many.ports);
    Ok(())
}

#[test]
fn a_running_connection_is_listed() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--echo")?;
    let client = Client::start(
        pair.client(),
        address,
        "--send 100 --linger 60000 --no-half-close",
    )?;
    let local = client.connected()?.local.map(|local| local.to_string());
    pair.client_agent
        .wait_for("the connection is not listed", |agent| {
            Ok(agent.connections()?.iter().any(|connection| {
                connection["from"].as_str() == local.as_deref()
                    && connection["to"] == address.to_string().as_str()
                    && connection["peer"] == testbed::pki::spiffe_id("server")
            }))
        })
}
