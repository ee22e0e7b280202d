//! A workload that shares its network namespace: what its own programs do is protected or refused, what
//! others do is left alone.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::pki::{Mesh, spiffe_id};
use testbed::{
    Agent, AgentConfig, Capture, Client, Host, IngressRule, Server, Testbed, WorkloadConfig, peer,
    require,
};

#[test]
fn without_an_agent_the_sniffers_see_the_plaintext() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "host"])?;
    let address = bed.host("host").at(PORT);
    let _serving = Server::start(bed.host("host"), &[address], "--send 2000")?;
    let (wire, within) = (bed.sniff()?, bed.host("host").sniff()?);
    Client::run(bed.host("client"), address, "--send 3000")?;
    wire.finish()?.assert_saw_plaintext();
    let local = Client::start(bed.host("host"), address, "--send 3000 --linger 500")?;
    let from = local.connected()?.local.expect("it is connected");
    local.closed()?;
    let capture = within.finish()?;
    ensure!(capture.sightings_between(from, address) > 0, "{capture:?}");
    Ok(())
}

#[test]
fn a_program_is_reached_in_mutual_tls_wherever_it_listens() -> Result<()> {
    require!();
    let shared = Shared::start()?;
    let host = shared.host();
    let mut conversations = 0;
    for (listen, options, reached) in [
        (host.at(PORT), "", vec![host.at(PORT)]),
        (host.at_v6(PORT), "", vec![host.at_v6(PORT)]),
        (any_v4(PORT), "", vec![host.at(PORT)]),
        (any_v6(PORT), "", vec![host.at(PORT), host.at_v6(PORT)]),
        (mapped(host.v4()), "", vec![host.at(PORT)]),
        (
            any_v6(PORT),
            "--mptcp",
            vec![host.at(PORT), host.at_v6(PORT)],
        ),
    ] {
        let _serving = Server::start(host, &[listen], &format!("{SERVE} {options}"))?;
        for address in reached {
            assert_exact(&shared.bed, address)?;
            conversations += 1;
        }
    }
    let served = shared.ingress_connections()?;
    ensure!(served == conversations, "{served} of {conversations}");
    Ok(())
}

#[test]
fn a_program_connects_in_mutual_tls() -> Result<()> {
    require!();
    let shared = Shared::start()?;
    for address in both(shared.peer()) {
        let serving = Server::start(shared.peer(), &[address], SERVE)?;
        let sniffer = shared.bed.sniff()?;
        Client::run(shared.host(), address, CONNECT)?.assert_exact(3000, 2000);
        serving.closed(0)?.assert_exact(2000, 3000);
        sniffer.finish()?.assert_only_ciphertext(5000);
    }
    let line = shared.agent.access(|line| line["direction"] == "egress")?;
    ensure!(line["peer"] == spiffe_id("peer"), "{line}");
    Ok(())
}

#[test]
fn others_of_the_namespace_are_left_alone() -> Result<()> {
    require!();
    let shared = Shared::start()?;
    let (host, outsider) = (shared.host(), shared.outsider());
    // The workload listens at another port and at another address.
    let _own = Server::start(host, &[host.at(PORT), loopback_v4(OTHER)], SERVE)?;
    for address in both_at(host, OTHER) {
        let serving = Server::start_outside_the_cgroup(host, &[address], SERVE)?;
        let sniffer = shared.bed.sniff()?;
        Client::run(outsider, address, CONNECT)?.assert_exact(3000, 2000);
        serving.closed(0)?.assert_exact(2000, 3000);
        sniffer.finish()?.assert_saw_plaintext();
        let local = Client::start_outside_the_cgroup(host, address, CONNECT)?;
        local.closed()?.assert_exact(3000, 2000);
    }
    for address in both(outsider) {
        let _serving = Server::start(outsider, &[address], SERVE)?;
        let client = Client::start_outside_the_cgroup(host, address, CONNECT)?;
        client.closed()?.assert_exact(3000, 2000);
        let source = if address.is_ipv4() {
            host.at(SOURCE)
        } else {
            host.at_v6(SOURCE)
        };
        let sniffer = shared.bed.sniff()?;
        let (segments, errors) = peer::raw_outside_the_cgroup(host, source, address)?;
        ensure!(segments == 2, "{errors:?}");
        shared.bed.settle();
        sniffer.finish()?.assert_saw_plaintext();
    }
    let metrics = shared.agent.metrics()?;
    ensure!(metrics.sum("sealwire_kernel_refusals_total", &[]) == 0);
    ensure!(metrics.sum("sealwire_connections_total", &[]) == 0);
    Ok(())
}

#[test]
fn a_client_without_a_certificate_is_refused() -> Result<()> {
    require!();
    let shared = Shared::start()?;
    let host = shared.host();
    let serving = Server::start(host, &[any_v6(PORT)], SERVE)?;
    for address in both(host) {
        let refused = Client::run(shared.outsider(), address, CONNECT)?;
        ensure!(refused.received == 0, "{refused:?}");
    }
    ensure!(serving.connections() == 0);
    Ok(())
}

#[test]
fn another_program_of_the_host_does_not_reach_it_in_clear() -> Result<()> {
    require!();
    let shared = Shared::start()?;
    let host = shared.host();
    let serving = Server::start(host, &[any_v6(PORT)], SERVE)?;
    for address in [
        loopback_v4(PORT),
        loopback_v6(PORT),
        host.at(PORT),
        host.at_v6(PORT),
    ] {
        let refused = Client::start_outside_the_cgroup(host, address, CONNECT)?.closed()?;
        ensure!(refused.received == 0, "{refused:?}");
    }
    ensure!(serving.connections() == 0);
    assert_exact(&shared.bed, host.at(PORT))
}

#[test]
fn programs_of_one_workload_reach_each_other_in_clear() -> Result<()> {
    require!();
    let shared = Shared::start()?;
    let host = shared.host();
    let serving = Server::start(host, &[any_v6(PORT)], SERVE)?;
    for (nth, address) in [
        loopback_v4(PORT),
        loopback_v6(PORT),
        host.at(PORT),
        host.at_v6(PORT),
    ]
    .into_iter()
    .enumerate()
    {
        Client::run(host, address, CONNECT)?.assert_exact(3000, 2000);
        serving.closed(nth)?.assert_exact(2000, 3000);
    }
    let mapped = Client::run(host, host.at(PORT), &format!("{CONNECT} --v4-mapped"))?;
    mapped.assert_exact(3000, 2000);
    ensure!(
        shared
            .agent
            .metrics()?
            .sum("sealwire_connections_total", &[])
            == 0
    );
    Ok(())
}

#[test]
fn a_listener_that_was_never_bound_is_not_reached_in_clear() -> Result<()> {
    require!();
    let shared = Shared::start()?;
    let host = shared.host();
    for listen in [any_v4(0), any_v6(0)] {
        let serving = Server::start(host, &[listen], &format!("{SERVE} --unbound"))?;
        let port = serving.listening(0)?.port();
        let address = if listen.is_ipv4() {
            host.at(port)
        } else {
            host.at_v6(port)
        };
        let refused = Client::run(shared.outsider(), address, CONNECT)?;
        ensure!(refused.received == 0, "{refused:?}");
        ensure!(serving.connections() == 0);
        assert_exact(&shared.bed, address)?;
    }
    Ok(())
}

#[test]
fn a_port_is_others_when_the_program_has_closed_it() -> Result<()> {
    require!();
    let shared = Shared::start()?;
    let host = shared.host();
    for address in both(host) {
        let several =
            [(); 2].map(|()| Server::start(host, &[address], &format!("{SERVE} --reuse-port")));
        let [first, second] = several;
        let second = second?;
        drop(first?);
        // One of two sockets still listens.
        assert_exact(&shared.bed, address)?;
        drop(second);
        let serving = Server::start_outside_the_cgroup(host, &[address], SERVE)?;
        Client::run(shared.outsider(), address, CONNECT)?.assert_exact(3000, 2000);
        serving.closed(0)?.assert_exact(2000, 3000);
    }
    Ok(())
}

#[test]
fn a_program_that_listened_before_the_agent_is_not_reached_in_clear() -> Result<()> {
    require!();
    let bed = Testbed::new(&["peer", "host", "outsider"])?;
    let host = bed.host("host");
    let serving = Server::start(host, &[any_v6(PORT)], SERVE)?;
    Client::run(bed.host("outsider"), host.at(PORT), CONNECT)?.assert_exact(3000, 2000);
    let shared = Shared::start_on(bed, |_| {})?;
    for address in both(shared.host()) {
        let refused = Client::try_connect(shared.outsider(), address, QUICK)?;
        ensure!(refused.is_err(), "{refused:?}");
    }
    shared.agent.refusal("not-steered")?;
    ensure!(serving.connections() == 1);
    Ok(())
}

#[test]
fn while_the_agent_is_dead_nothing_goes_in_or_out_and_others_are_left_alone() -> Result<()> {
    require!();
    let mut shared = Shared::start()?;
    let serving = Server::start(shared.host(), &[any_v6(PORT)], SERVE)?;
    assert_exact(&shared.bed, shared.host().at(PORT))?;
    shared.agent.kill()?;
    // A program that listens meanwhile, too.
    let late = Server::start(shared.host(), &[any_v6(OTHER)], SERVE)?;
    let sniffer = shared.bed.sniff()?;
    for port in [PORT, OTHER] {
        for address in both_at(shared.host(), port) {
            for from in [shared.outsider(), shared.peer()] {
                let refused = Client::start(from, address, QUICK)?;
                let arrived = refused.outcome()?.is_ok() && refused.closed()?.received > 0;
                ensure!(!arrived, "{address} answers");
            }
        }
        let local = Client::start_outside_the_cgroup(shared.host(), loopback_v4(port), QUICK)?;
        ensure!(local.outcome()?.is_err());
    }
    for address in both(shared.outsider()) {
        let _serving = Server::start(shared.outsider(), &[address], SERVE)?;
        let refused = Client::try_connect(shared.host(), address, QUICK)?;
        ensure!(refused.is_err(), "{refused:?}");
    }
    sniffer.finish()?.assert_no_plaintext();
    ensure!(late.connections() == 0 && serving.connections() == 1);
    let _other = Server::start_outside_the_cgroup(shared.host(), &[any_v6(THIRD)], SERVE)?;
    for address in both_at(shared.host(), THIRD) {
        Client::run(shared.outsider(), address, CONNECT)?.assert_exact(3000, 2000);
    }
    shared.agent.restart()?;
    shared.agent.wait_until_ready()?;
    // Until then the peer's agent takes the host to refuse.
    thread::sleep(Duration::from_millis(1100));
    for port in [PORT, OTHER] {
        for address in both_at(shared.host(), port) {
            assert_exact(&shared.bed, address)?;
        }
    }
    Ok(())
}

#[test]
fn segments_of_a_raw_socket_of_the_workload_are_dropped() -> Result<()> {
    require!();
    let shared = Shared::start()?;
    let host = shared.host();
    let sniffer = shared.bed.sniff()?;
    for (source, to) in [
        (host.at(SOURCE), shared.outsider().at(PORT)),
        (host.at_v6(SOURCE), shared.outsider().at_v6(PORT)),
    ] {
        peer::raw(host, source, to)?;
    }
    shared.agent.refusal("unsealed-segment")?;
    shared.bed.settle();
    sniffer.finish()?.assert_no_plaintext();
    Ok(())
}

#[test]
fn a_plaintext_port_is_reached_in_clear_and_no_other() -> Result<()> {
    require!();
    let bed = Testbed::new(&["peer", "host", "outsider"])?;
    let mut shared = Shared::start_on(bed, |workload| {
        workload.ingress.push(IngressRule {
            port: OTHER,
            mode: "plaintext",
            peers: Vec::new(),
        });
    })?;
    let serving = Server::start(shared.host(), &[any_v6(PORT), any_v6(OTHER)], SERVE)?;
    for address in both_at(shared.host(), OTHER) {
        Client::run(shared.outsider(), address, CONNECT)?.assert_exact(3000, 2000);
    }
    for address in both(shared.host()) {
        let refused = Client::run(shared.outsider(), address, CONNECT)?;
        ensure!(refused.received == 0, "{refused:?}");
    }
    ensure!(serving.connections() == 2);
    shared.agent.kill()?;
    for address in both_at(shared.host(), OTHER) {
        // The hooks take a moment to miss the agent.
        let deadline = Instant::now() + Duration::from_secs(10);
        while Client::try_connect(shared.outsider(), address, QUICK)?.is_ok() {
            ensure!(Instant::now() < deadline, "{address} stays open");
        }
    }
    Ok(())
}

#[test]
fn two_workloads_of_one_host_talk_in_mutual_tls_and_by_the_loopback_not_at_all() -> Result<()> {
    require!();
    let bed = Testbed::new(&["host", "other"])?;
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let workload = |name| -> Result<WorkloadConfig> {
        let mut workload = WorkloadConfig::of(bed.host(name), &mesh.issue(name)?);
        workload.netns = bed.host("host").netns();
        workload.shares_netns = true;
        Ok(workload)
    };
    let (one, other) = (workload("host")?, workload("other")?);
    // One agent for each, and then one for both.
    for one_agent in [false, true] {
        let agents = if one_agent {
            // In an emulated machine the kernel takes long to verify the programs of both.
            let config = AgentConfig::new(vec![one.clone(), other.clone()])?;
            let patient = config.with_patience(Duration::from_mins(1));
            vec![Agent::start_with(&bed, patient)?]
        } else {
            vec![
                Agent::start(&bed, vec![one.clone()])?,
                Agent::start(&bed, vec![other.clone()])?,
            ]
        };
        assert_two_workloads(&bed, &agents)?;
        for mut agent in agents {
            agent.stop()?;
            agent.detach()?.success()?;
        }
    }
    Ok(())
}

fn assert_two_workloads(bed: &Testbed, agents: &[Agent]) -> Result<()> {
    let host = bed.host("host");
    // So little that the sniffer remembers each marker.
    let serve = "--send 900 --seed 22 --expect-seed 11";
    let connect = "--send 900 --seed 11 --expect-seed 22";
    let serving = Server::start(host, &[any_v6(PORT)], serve)?;
    for (nth, address) in both(host).into_iter().enumerate() {
        let sniffer = host.sniff()?;
        let other = Client::start_elsewhere(bed.host("other"), host, address, connect)?;
        let from = other.connected()?.local.expect("it is connected");
        other.closed()?.assert_exact(900, 900);
        serving.closed(nth)?.assert_exact(900, 900);
        assert_sealed(&sniffer.finish()?, from, address);
    }
    for address in [loopback_v4(PORT), loopback_v6(PORT)] {
        let other = Client::start_elsewhere(bed.host("other"), host, address, connect)?;
        let refused = other.closed()?;
        ensure!(refused.received == 0, "{refused:?}");
    }
    ensure!(serving.connections() == 2);
    for (agent, direction, peer) in [
        (agents.first(), "ingress", "other"),
        (agents.last(), "egress", "host"),
    ] {
        let agent = agent.expect("there is an agent");
        agent.access(|line| line["direction"] == direction && line["peer"] == spiffe_id(peer))?;
    }
    Ok(())
}

/// What went from one address of the host to another was there, and in ciphertext.
fn assert_sealed(capture: &Capture, from: SocketAddr, to: SocketAddr) {
    assert!(capture.markers > 0, "the way to the agent is in clear");
    assert!(capture.markers <= capture.sightings.len() as u64);
    assert_eq!(capture.sightings_between(from, to), 0, "{capture:#?}");
    assert_eq!(capture.sightings_between(to, from), 0, "{capture:#?}");
}

/// A host on which a workload and others share the namespace, and a workload elsewhere.
struct Shared {
    agent: Agent,
    _peers_agent: Agent,
    bed: Testbed,
}

impl Shared {
    fn start() -> Result<Self> {
        Self::start_on(Testbed::new(&["peer", "host", "outsider"])?, |_| {})
    }

    fn start_on(bed: Testbed, change: impl FnOnce(&mut WorkloadConfig)) -> Result<Self> {
        let mesh = Mesh::new(&bed.directory().join("mesh"))?;
        let mut workload = WorkloadConfig::of(bed.host("host"), &mesh.issue("host")?);
        workload.shares_netns = true;
        change(&mut workload);
        let peer = WorkloadConfig::of(bed.host("peer"), &mesh.issue("peer")?);
        Ok(Self {
            agent: Agent::start_with(&bed, AgentConfig::new(vec![workload])?)?,
            _peers_agent: Agent::start(&bed, vec![peer])?,
            bed,
        })
    }

    fn host(&self) -> &Host {
        self.bed.host("host")
    }

    fn peer(&self) -> &Host {
        self.bed.host("peer")
    }

    fn outsider(&self) -> &Host {
        self.bed.host("outsider")
    }

    fn ingress_connections(&self) -> Result<u64> {
        let metrics = self.agent.metrics()?;
        Ok(metrics.sum("sealwire_connections_total", &[("direction", "ingress")]))
    }
}

/// The workload elsewhere talks to a program of the host that was started with [`SERVE`].
fn assert_exact(bed: &Testbed, address: SocketAddr) -> Result<()> {
    let sniffer = bed.sniff()?;
    Client::run(bed.host("peer"), address, CONNECT)?.assert_exact(3000, 2000);
    sniffer.finish()?.assert_only_ciphertext(5000);
    Ok(())
}

fn both(host: &Host) -> [SocketAddr; 2] {
    both_at(host, PORT)
}

fn both_at(host: &Host, port: u16) -> [SocketAddr; 2] {
    [host.at(port), host.at_v6(port)]
}

fn any_v4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn any_v6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn loopback_v4(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn loopback_v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

fn mapped(ip: std::net::IpAddr) -> SocketAddr {
    match ip {
        std::net::IpAddr::V4(v4) => (v4.to_ipv6_mapped(), PORT).into(),
        v6 @ std::net::IpAddr::V6(_) => (v6, PORT).into(),
    }
}

const SERVE: &str = "--send 2000 --seed 22 --expect-seed 11";
const CONNECT: &str = "--send 3000 --seed 11 --expect-seed 22";
/// For who is not to be answered at all.
const QUICK: &str = "--send 3000 --seed 11 --expect-seed 22 --patience 1500";
const PORT: u16 = 4000;
const OTHER: u16 = 4001;
const THIRD: u16 = 4002;
const SOURCE: u16 = 5000;
