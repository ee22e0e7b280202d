//! Ways around `connect`: none puts a byte of plaintext on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use testbed::pair::PORT;
use testbed::{Capture, Client, Host, Pair, Server, Testbed, peer, require};

/// A way in which a program may send without being steered.
#[derive(Debug, Clone, Copy)]
enum Way {
    BoundToDevice,
    FastOpen,
    MultipathTcp,
    RawSocket,
    SocketMadeBeforeJoining,
    ProgramOutsideTheCgroup,
}

const WAYS: [Way; 6] = [
    Way::BoundToDevice,
    Way::FastOpen,
    Way::MultipathTcp,
    Way::RawSocket,
    Way::SocketMadeBeforeJoining,
    Way::ProgramOutsideTheCgroup,
];

#[test]
fn without_an_agent_each_way_puts_plaintext_on_the_wire() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let (client, server) = (bed.host("client"), bed.host("server"));
    allow_fast_open(server)?;
    allow_fast_open(client)?;
    for way in WAYS {
        for address in [server.at(PORT), server.at_v6(PORT)] {
            let _serving = serve(server, address)?;
            let sniffer = bed.sniff()?;
            send(way, client, address)?;
            let capture = sniffer.finish()?;
            assert!(
                capture.markers > 0,
                "{way:?} to {address} is not put to the test"
            );
        }
    }
    Ok(())
}

#[test]
fn a_socket_bound_to_a_device_is_refused() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let delivered = sent(&pair, Way::BoundToDevice)?;
    assert_eq!(delivered, 0);
    pair.client_agent.refusal("bound-device")?;
    Ok(())
}

#[test]
fn a_process_of_the_workload_in_another_namespace_is_refused() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let _serving = serve(pair.server(), address)?;
    let namespace = format!("--net={}", pair.outsider().netns().display());
    let connect = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
    let strayed = pair
        .client()
        .command("nsenter")
        .args([namespace.as_str(), "bash", "-c", &connect])
        .run(Duration::from_secs(10))?;
    assert!(strayed.success().is_err());
    pair.client_agent.refusal("foreign-namespace")?;
    Ok(())
}

#[test]
fn data_in_a_syn_is_protected() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    allow_fast_open(pair.client())?;
    allow_fast_open(pair.server())?;
    let delivered = sent(&pair, Way::FastOpen)?;
    assert_eq!(delivered, 2 * SENT);
    Ok(())
}

#[test]
fn multipath_tcp_is_protected_or_refused() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let delivered = sent(&pair, Way::MultipathTcp)?;
    assert!(
        delivered == 0 || delivered == 2 * SENT,
        "{delivered} bytes arrived"
    );
    Ok(())
}

#[test]
fn segments_of_a_raw_socket_are_dropped() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    assert_eq!(sent(&pair, Way::RawSocket)?, 0);
    pair.client_agent.refusal("unsealed-segment")?;
    Ok(())
}

#[test]
fn a_socket_made_before_its_program_joined_the_workload_is_protected_or_refused() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let delivered = sent(&pair, Way::SocketMadeBeforeJoining)?;
    assert!(
        delivered == 0 || delivered == 2 * SENT,
        "{delivered} bytes arrived"
    );
    Ok(())
}

#[test]
fn a_program_in_the_namespace_but_outside_the_cgroup_gets_nothing_out() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    assert_eq!(sent(&pair, Way::ProgramOutsideTheCgroup)?, 0);
    pair.client_agent.refusal("unsealed-segment")?;
    Ok(())
}

#[test]
fn no_way_is_open_while_the_agent_is_dead() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    allow_fast_open(pair.client())?;
    pair.client_agent.kill()?;
    for way in WAYS {
        assert_eq!(sent(&pair, way)?, 0, "{way:?}");
    }
    Ok(())
}

#[test]
fn a_connection_older_than_the_agent_is_cut_off() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let (host, address) = (bed.host("client"), bed.host("server").at(PORT));
    let serving = Server::start(bed.host("server"), &[address], "")?;
    let _older = Client::start(
        host,
        address,
        "--send 100000000 --chunk 2048 --write-pause 20000",
    )?;
    serving.accepted(0)?;

    let mesh = testbed::pki::Mesh::new(&bed.directory().join("mesh"))?;
    let workload = testbed::WorkloadConfig::of(host, &mesh.issue("client")?);
    let agent = testbed::Agent::start(&bed, vec![workload])?;
    let sniffer = bed.sniff()?;
    agent.refusal("unsealed-segment")?;
    std::thread::sleep(Duration::from_millis(300));
    sniffer.finish()?.assert_no_plaintext();
    Ok(())
}

/// Sends in this way from the client to the server, and to a host without an agent; none of it
/// may be in clear. How many bytes reached the server's program.
fn sent(pair: &Pair, way: Way) -> Result<u64> {
    let mut delivered = 0;
    let server = pair.server();
    for address in [server.at(PORT), server.at_v6(PORT)] {
        let serving = serve(server, address)?;
        assert_no_plaintext(way, &watched(pair, way, address)?);
        if serving.connections() > 0 {
            delivered += serving.closed(0)?.received;
        }
    }
    for address in [pair.outsider().at(PORT), pair.outsider().at_v6(PORT)] {
        let _serving = serve(pair.outsider(), address)?;
        assert_no_plaintext(way, &watched(pair, way, address)?);
    }
    Ok(delivered)
}

fn watched(pair: &Pair, way: Way, to: SocketAddr) -> Result<Capture> {
    let sniffer = pair.bed.sniff()?;
    send(way, pair.client(), to)?;
    sniffer.finish()
}

#[track_caller]
fn assert_no_plaintext(way: Way, capture: &Capture) {
    assert_eq!(
        capture.markers, 0,
        "{way:?} leaks: {:#?}",
        capture.sightings
    );
}

/// Sends [`SENT`] bytes with the marker, and waits until that is over, one way or the other.
fn send(way: Way, from: &Host, to: SocketAddr) -> Result<()> {
    let plain = format!("--send {SENT} --patience 1200");
    let options = match way {
        Way::BoundToDevice => format!("{plain} --bind-to-device eth0"),
        Way::FastOpen => format!("{plain} --tcp-fastopen"),
        Way::MultipathTcp => format!("{plain} --mptcp"),
        Way::RawSocket => {
            let source = if to.is_ipv4() {
                from.at(SOURCE)
            } else {
                from.at_v6(SOURCE)
            };
            // The first packet to a neighbour waits for its address.
            let _ = peer::raw(from, source, to)?;
            std::thread::sleep(Duration::from_millis(50));
            return Ok(());
        }
        Way::SocketMadeBeforeJoining => {
            let cgroup = from.cgroup().display();
            format!("{plain} --wait-after-socket --join-cgroup {cgroup}")
        }
        Way::ProgramOutsideTheCgroup => plain,
    };
    let outside = matches!(
        way,
        Way::SocketMadeBeforeJoining | Way::ProgramOutsideTheCgroup
    );
    let mut client = if outside {
        Client::start_outside_the_cgroup(from, to, &options)?
    } else {
        Client::start(from, to, &options)?
    };
    if matches!(way, Way::SocketMadeBeforeJoining) {
        client.socket_made()?;
        client.go_on()?;
    }
    if client.outcome()?.is_ok() {
        client.closed()?;
    }
    Ok(())
}

fn serve(host: &Host, address: SocketAddr) -> Result<Server> {
    Server::start(host, &[address], "--mptcp")
}

/// Client and server, without cookies, on every listener.
fn allow_fast_open(host: &Host) -> Result<()> {
    host.sysctl("net/ipv4/tcp_fastopen", "1543")
}

const SENT: u64 = 5000;
const SOURCE: u16 = 5000;
