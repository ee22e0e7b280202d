//! Programs see the addresses that they would see without Sealwire.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use testbed::{Client, Pair, Server, Testbed, require};

#[test]
fn both_ends_see_each_others_ipv4_address() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    assert_true_addresses(&pair, pair.server().at(PORT), "")
}

#[test]
fn both_ends_see_each_others_ipv6_address() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    assert_true_addresses(&pair, pair.server().at_v6(PORT), "")
}

#[test]
fn a_non_blocking_client_sees_them_too() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    assert_true_addresses(&pair, pair.server().at(PORT), "--nonblocking")?;
    assert_true_addresses(&pair, pair.server().at_v6(PORT), "--nonblocking")
}

#[test]
fn an_ipv6_socket_sees_ipv4_addresses_in_their_mapped_form() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[wildcard()], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let client = Client::start(pair.client(), address, "--send 5000 --v4-mapped")?;
    let (ours, theirs) = (client.connected()?, serving.accepted(0)?);
    client.closed()?.assert_exact(5000, 5000);
    sniffer.finish()?.assert_only_ciphertext(5000);

    assert_eq!(ours.peer, Some(mapped(address)));
    let local = ours.local.context("it has an address")?;
    assert_eq!(local.ip(), mapped(pair.client().at(0)).ip());
    assert_eq!(theirs.local, Some(mapped(address)));
    assert_eq!(
        (theirs.accepted_from, theirs.peer),
        (Some(local), Some(local))
    );
    Ok(())
}

#[test]
fn a_source_that_the_client_chose_is_kept() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    for source in [pair.client().at(2345), pair.client().at_v6(2346)] {
        let address = SocketAddr::new(same_family(source, pair.server()), PORT);
        let serving = Server::start(pair.server(), &[address], "--echo")?;
        let client = Client::start(
            pair.client(),
            address,
            &format!("--send 5000 --bind-source {source}"),
        )?;
        assert_eq!(client.connected()?.local, Some(source));
        assert_eq!(serving.accepted(0)?.accepted_from, Some(source));
        client.closed()?.assert_exact(5000, 5000);
    }
    Ok(())
}

#[test]
fn a_port_that_the_client_chose_on_any_address_is_kept() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let client = Client::start(
        pair.client(),
        address,
        "--send 5000 --bind-source 0.0.0.0:2347",
    )?;
    assert_eq!(client.connected()?.local, Some(pair.client().at(2347)));
    assert_eq!(
        serving.accepted(0)?.accepted_from,
        Some(pair.client().at(2347))
    );
    client.closed()?.assert_exact(5000, 5000);
    Ok(())
}

#[test]
fn a_client_of_a_port_in_clear_is_seen_as_it_is() -> Result<()> {
    require!();
    let pair = Pair::start_with(|_, server| {
        server.ingress.push(testbed::IngressRule {
            port: PORT,
            mode: "plaintext",
            peers: vec![],
        });
    })?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let client = Client::start(pair.outsider(), address, "--send 5000")?;
    assert_eq!(
        serving.accepted(0)?.accepted_from,
        client.connected()?.local
    );
    client.closed()?.assert_exact(5000, 5000);
    Ok(())
}

#[test]
fn connections_within_the_host_are_left_alone() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let host = pair.client();
    for address in [
        "127.0.0.1:4000".parse()?,
        "[::1]:4000".parse()?,
        host.at(4001),
    ] {
        let serving = Server::start(host, &[address], "--echo")?;
        let client = Client::start(host, address, "--send 5000")?;
        assert_eq!(client.connected()?.peer, Some(address));
        assert_eq!(
            serving.accepted(0)?.accepted_from,
            client.connected()?.local
        );
        client.closed()?.assert_exact(5000, 5000);
    }
    Ok(())
}

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let address = bed.host("server").at(PORT);
    let _serving = Server::start(bed.host("server"), &[wildcard()], "--echo")?;
    let sniffer = bed.sniff()?;
    Client::run(bed.host("client"), address, "--send 5000 --v4-mapped")?.assert_exact(5000, 5000);
    sniffer.finish()?.assert_saw_plaintext();
    Ok(())
}

fn assert_true_addresses(pair: &Pair, address: SocketAddr, options: &str) -> Result<()> {
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let client = Client::start(pair.client(), address, &format!("--send 5000 {options}"))?;
    let (ours, theirs) = (client.connected()?, serving.accepted(0)?);
    client.closed()?.assert_exact(5000, 5000);
    sniffer.finish()?.assert_only_ciphertext(10_000);

    let local = ours.local.context("it has an address")?;
    assert_eq!(ours.peer, Some(address), "the client's getpeername");
    assert_eq!(
        local.ip(),
        same_family(address, pair.client()),
        "the client's getsockname"
    );
    assert_eq!(theirs.accepted_from, Some(local), "the server's accept");
    assert_eq!(theirs.peer, Some(local), "the server's getpeername");
    assert_eq!(theirs.local, Some(address), "the server's getsockname");
    Ok(())
}

fn same_family(address: SocketAddr, host: &testbed::Host) -> IpAddr {
    if address.is_ipv4() {
        host.v4()
    } else {
        host.v6()
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn wildcard() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, PORT).into()
}

const PORT: u16 = 4000;
