//! Whichever starts first, agent or program: once the agent is ready, nothing of a configured workload is
//! in clear, and what was before does not go on so.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::agent::{Agent, AgentConfig, IngressRule, WorkloadConfig};
use testbed::pair::PORT;
use testbed::pki::Mesh;
use testbed::{Client, Closed, End, Host, Pair, Server, Testbed, peer, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn connections_older_than_the_agent_end_before_it_is_ready() -> Result<()> {
    require!();
    let bed = Testbed::new(HOSTS)?;
    let [client, server, outsider] = HOSTS.map(|name| bed.host(name));
    let addresses = [server.at(PORT), server.at_v6(PORT)];
    let _serving = Server::start(server, &addresses, "--echo")?;
    let _outside = Server::start(outsider, &[outsider.at(PORT)], "--echo")?;
    let sniffer = bed.sniff()?;
    let mut older = Vec::new();
    // Between two workloads, to one of them, from one of them.
    for (from, to) in [
        (client, addresses[0]),
        (client, addresses[1]),
        (outsider, addresses[0]),
        (outsider, addresses[1]),
        (client, outsider.at(PORT)),
    ] {
        let connection = Client::start(from, to, ENDLESS)?;
        connection.connected()?;
        older.push(connection);
    }
    sniffer.finish()?.assert_saw_plaintext();

    let (client_agent, server_agent, mesh) = start_agents(&bed)?;
    let sniffer = bed.sniff()?;
    for connection in older {
        assert_cut(&connection.closed()?);
    }
    // The program that listened before is reached by both families.
    for address in addresses {
        Client::run(client, address, "--send 5000")?.assert_exact(5000, 5000);
    }
    sniffer.finish()?.assert_only_ciphertext(20_000);
    for agent in [&client_agent, &server_agent] {
        assert!(agent.log().contains("older-than-agent"), "it says nothing");
    }
    drop(mesh);
    Ok(())
}

#[test]
fn connections_within_the_namespace_are_not_touched_by_the_start() -> Result<()> {
    require!();
    let bed = Testbed::new(HOSTS)?;
    let server = bed.host("server");
    // A second address: what goes from one to the other stays inside as well.
    server.ip("addr add 10.77.0.200/24 dev eth0")?;
    let addresses: [SocketAddr; 3] = [
        server.at(PORT),
        server.at_v6(PORT),
        "127.0.0.1:4000".parse()?,
    ];
    let _serving = Server::start(server, &addresses, "--echo")?;
    let mut inside = Vec::new();
    for address in addresses {
        inside.push(Client::start(server, address, SLOW)?);
    }
    let from_second = format!("--bind-source 10.77.0.200:0 {SLOW}");
    inside.push(Client::start(server, addresses[0], &from_second)?);
    for connection in &inside {
        connection.connected()?;
    }
    let _agents = start_agents(&bed)?;
    for connection in inside {
        connection.closed()?.assert_exact(SLOWLY, SLOWLY);
    }
    Ok(())
}

#[test]
fn a_program_that_starts_after_the_agent_is_never_in_clear() -> Result<()> {
    require!();
    let bed = Testbed::new(HOSTS)?;
    let sniffer = bed.sniff()?;
    let (client_agent, server_agent, mesh) = start_agents(&bed)?;
    let pair = Pair {
        client_agent,
        server_agent,
        mesh,
        bed,
    };
    pair.assert_served()?;
    sniffer.finish()?.assert_only_ciphertext(5000);
    Ok(())
}

#[test]
fn of_programs_and_agents_that_start_together_nothing_is_in_clear_once_they_are_ready() -> Result<()>
{
    require!();
    let bed = Testbed::new(HOSTS)?;
    let [client, server, _] = HOSTS.map(|name| bed.host(name));
    let addresses = [server.at(PORT), server.at_v6(PORT)];
    client.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    let _serving = Server::start(server, &addresses, "--echo --quiet")?;
    let churns = addresses.map(|to| peer::start_many(client, to, "--connections 4 --churn 8"));
    let _agents = start_agents(&bed)?;
    let sniffer = bed.sniff()?;
    let mut exact = 0;
    for churn in churns {
        exact += churn?.finish()?.exact;
    }
    assert!(exact > 0);
    for address in addresses {
        Client::run(client, address, "--send 5000")?.assert_exact(5000, 5000);
    }
    sniffer.finish()?.assert_only_ciphertext(20_000);
    Ok(())
}

#[test]
fn after_a_reboot_programs_that_wait_for_the_agent_are_never_in_clear() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    pair.assert_served()?;
    reboot(&mut pair)?;
    let sniffer = pair.bed.sniff()?;
    for agent in [&mut pair.client_agent, &mut pair.server_agent] {
        agent.restart()?;
        agent.wait_until_ready()?;
    }
    pair.assert_served()?;
    sniffer.finish()?.assert_only_ciphertext(5000);
    Ok(())
}

#[test]
fn what_talked_in_clear_while_the_pins_were_gone_ends_when_the_agent_is_back() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let addresses = [pair.server().at(PORT), pair.server().at_v6(PORT)];
    reboot(&mut pair)?;
    let serving = Server::start(pair.server(), &addresses, "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let mut meanwhile = Vec::new();
    for address in addresses {
        let connection = Client::start(pair.client(), address, ENDLESS)?;
        connection.connected()?;
        meanwhile.push(connection);
    }
    sniffer.finish()?.assert_saw_plaintext();
    for agent in [&mut pair.client_agent, &mut pair.server_agent] {
        agent.restart()?;
        agent.wait_until_ready()?;
    }
    let sniffer = pair.bed.sniff()?;
    for connection in meanwhile {
        assert_cut(&connection.closed()?);
    }
    drop(serving); // of the same port
    pair.assert_served()?;
    sniffer.finish()?.assert_only_ciphertext(5000);
    Ok(())
}

#[test]
fn a_port_that_was_in_clear_is_sealed_from_a_restart_on() -> Result<()> {
    require!();
    let mut pair = two_ports_in_clear()?;
    let Clear {
        ends,
        stays,
        serving: _serving,
    } = Clear::start(&pair)?;
    pair.server_agent.kill()?;
    pair.server_agent.rewrite(seal)?;
    pair.server_agent.restart()?;
    pair.server_agent.wait_until_ready()?;
    let sniffer = pair.bed.sniff()?;
    for connection in ends {
        assert!(connection.closed()?.was_reset());
    }
    // From the outsider to the port that is in clear still.
    for connection in stays {
        connection.closed()?.assert_exact(SLOWLY, SLOWLY);
    }
    sniffer.finish()?.assert_saw_plaintext();
    assert!(pair.server_agent.log().contains("rule-changed"));
    pair.assert_served()
}

#[test]
fn a_port_that_was_in_clear_is_sealed_from_a_take_over_on_and_what_drains_goes_on() -> Result<()> {
    require!();
    let mut pair = two_ports_in_clear()?;
    let Clear {
        ends,
        stays,
        serving: _serving,
    } = Clear::start(&pair)?;
    // Of the old agent, from outside, to a port that is not in clear: it looks much the same.
    let protected = pair.server().at(PROTECTED);
    let _protected = Server::start(pair.server(), &[protected], "--echo")?;
    let drains = Client::start(pair.client(), protected, SLOW)?;
    drains.connected()?;
    pair.server_agent
        .signal(nix::sys::signal::Signal::SIGSTOP)?;
    pair.server_agent.rewrite(seal)?;
    pair.server_agent
        .signal(nix::sys::signal::Signal::SIGCONT)?;
    let _before = pair.server_agent.take_over(Duration::from_mins(1))?;
    pair.server_agent.wait_until_ready()?;
    for connection in ends {
        assert!(connection.closed()?.was_reset());
    }
    for connection in stays.into_iter().chain([drains]) {
        connection.closed()?.assert_exact(SLOWLY, SLOWLY);
    }
    assert!(pair.server_agent.log().contains("rule-changed"));
    Ok(())
}

/// What a reboot leaves: the configuration, and nothing of the kernel side. The kernel takes its time over
/// it: returns when programs talk in clear.
fn reboot(pair: &mut Pair) -> Result<()> {
    for agent in [&mut pair.client_agent, &mut pair.server_agent] {
        agent.kill()?;
        agent.unpin()?;
    }
    let server = pair.server();
    for address in [server.at(PORT), server.at_v6(PORT)] {
        let _serving = Server::start(server, &[address], "--echo")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let talks = || {
            Client::run(pair.client(), address, "--send 5000").is_ok_and(|it| it.received == 5000)
        };
        while !talks() {
            ensure!(Instant::now() < deadline, "something is still attached");
        }
    }
    Ok(())
}

/// Connections from the outsider, who has no agent, so that nobody but the server's could end them.
struct Clear {
    ends: Vec<Client>,
    stays: Vec<Client>,
    serving: Server,
}

impl Clear {
    fn start(pair: &Pair) -> Result<Self> {
        let server = pair.server();
        let sealed = [server.at(SEALED), server.at_v6(SEALED)];
        let open = [server.at(OPEN), server.at_v6(OPEN)];
        let serving = Server::start(server, &[sealed, open].concat(), "--echo")?;
        let start = |to, options| Client::start(pair.outsider(), to, options);
        let [ends, stays] = [(sealed, ENDLESS), (open, SLOW)].map(|(to, options)| {
            to.map(|to| start(to, options))
                .into_iter()
                .collect::<Result<Vec<_>>>()
        });
        let clear = Self {
            ends: ends?,
            stays: stays?,
            serving,
        };
        for connection in clear.ends.iter().chain(&clear.stays) {
            connection.connected()?;
        }
        Ok(clear)
    }
}

fn two_ports_in_clear() -> Result<Pair> {
    Pair::start_with(|_, server| {
        server.ingress = [SEALED, OPEN].map(in_clear).into();
    })
}

fn in_clear(port: u16) -> IngressRule {
    IngressRule {
        port,
        mode: "plaintext",
        peers: Vec::new(),
    }
}

fn seal(config: &mut AgentConfig) {
    config.workloads()[0].ingress[0].mode = "mtls";
}

/// It was neither let run nor ended as if it were complete.
fn assert_cut(closed: &Closed) {
    assert_eq!(closed.difference, None, "{closed:?}");
    // An error that a write was told of is not told to a read again.
    assert!(
        closed.send_error.is_some() || !matches!(closed.end, End::Eof | End::TimedOut),
        "{closed:?}"
    );
}

fn start_agents(bed: &Testbed) -> Result<(Agent, Agent, Mesh)> {
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let start = |host: &Host| {
        let tls_dir = mesh.issue(host.name())?;
        Agent::start(bed, vec![WorkloadConfig::of(host, &tls_dir)])
    };
    let (client, server) = (start(bed.host("client"))?, start(bed.host("server"))?);
    Ok((client, server, mesh))
}

const HOSTS: &[&str; 3] = &["client", "server", "outsider"];
const SEALED: u16 = PORT + 1;
const OPEN: u16 = PORT + 2;
const PROTECTED: u16 = PORT + 3;

const SLOW: &str = "--send 400000 --chunk 4000 --write-pause 60000";
const SLOWLY: u64 = 400_000;
const ENDLESS: &str = "--send 4000000000 --chunk 3000 --write-pause 2000";
