//! What the service manager is told, and what it keeps for the next agent.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use testbed::agent::{Agent, AgentConfig, ListenerRule, WorkloadConfig};
use testbed::pair::PORT;
use testbed::pki::Mesh;
use testbed::{Client, Pair, Server, ServiceManager, Testbed, require};

#[test]
fn the_service_manager_hears_that_the_agent_serves_lives_and_ends() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client"])?;
    let (mut agent, manager) = start(&bed, "600000")?;
    let ready = manager.wait_for("READY=1")?;
    assert!(ready.contains("MAINPID="), "{ready}");
    // A third of 600 ms each.
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1")?;
    }
    agent.stop()?;
    manager.wait_for("STOPPING=1").map(|_| ())
}

#[test]
fn an_heir_says_that_it_is_the_main_process_now() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client"])?;
    let (mut agent, manager) = start(&bed, "60000000")?;
    let before = manager.wait_for("READY=1")?;
    let _old = agent.take_over(Duration::from_mins(1))?;
    let now = manager.wait_for("READY=1")?;
    assert!(now.contains("MAINPID=") && now != before, "{before} {now}");
    Ok(())
}

#[test]
fn an_agent_that_stands_still_is_not_said_to_live() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client"])?;
    let (agent, manager) = start(&bed, "600000")?;
    manager.wait_for("WATCHDOG=1")?;
    agent.signal(Signal::SIGSTOP)?;
    manager.forget();
    assert_eq!(
        manager.next(Duration::from_secs(1)),
        None,
        "a dead man speaks"
    );
    agent.signal(Signal::SIGCONT)?;
    manager.wait_for("WATCHDOG=1").map(|_| ())
}

#[test]
fn listeners_outlive_a_crash_and_an_orderly_restart() -> Result<()> {
    require!();
    let mut pair = Supervised::start()?;
    let before = pair.manager.stored();
    // Egress and ingress, IPv4 and IPv6, for each worker.
    assert!(before.len() >= 4 && before.len() % 4 == 0, "{before:#?}");
    pair.assert_served()?;
    for crash in [true, false] {
        if crash {
            pair.client_agent.kill()?;
        } else {
            pair.client_agent.stop()?;
        }
        assert_eq!(pair.manager.stored(), before);
        pair.client_agent.restart()?;
        pair.client_agent.wait_until_ready()?;
        let log = pair.client_agent.log();
        assert!(log.contains("taken back from the service manager"), "{log}");
        pair.assert_served()?;
        assert_eq!(pair.manager.stored(), before);
    }
    Ok(())
}

#[test]
fn what_connects_to_a_crashed_agent_is_served_by_the_next() -> Result<()> {
    require!();
    let mut pair = Supervised::start()?;
    let addresses = [pair.server().at(PORT), pair.server().at_v6(PORT)];
    let _serving = Server::start(pair.server(), &addresses, "--echo")?;
    let sniffer = pair.bed.sniff()?;
    // Out of the workload: in its own agent's queue. Into it: in the queue of the server's.
    for side in ["client", "server"] {
        for address in addresses {
            let waiting = pair.wait_in_queue(side, address)?;
            pair.agent(side).restart()?;
            pair.agent(side).wait_until_ready()?;
            for connection in waiting {
                connection.closed()?.assert_exact(5000, 5000);
            }
        }
    }
    sniffer.finish()?.assert_only_ciphertext(40_000);
    Ok(())
}

#[test]
fn what_waits_for_an_agent_that_can_not_start_is_reset() -> Result<()> {
    require!();
    let mut pair = Supervised::start()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let waiting = pair.wait_in_queue("client", address)?;
    pair.client_agent.rewrite_as("nonsense = true\n")?;
    let ended = pair.client_agent.start_as_unit()?.wait(LIMIT)?;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr_text());
    pair.manager.wait_until_stored(BTreeMap::is_empty)?;
    for connection in waiting {
        let said = connection.closed()?;
        assert!(said.was_reset() && said.received == 0, "{said:?}");
    }
    sniffer.finish()?.assert_no_plaintext();
    assert_eq!(serving.connections(), 0);
    drop(serving);

    pair.client_agent.rewrite(|_| {})?;
    pair.client_agent.restart()?;
    pair.client_agent.wait_until_ready()?;
    pair.assert_served()
}

#[test]
fn connections_are_refused_once_the_agent_has_been_away_for_a_second() -> Result<()> {
    require!();
    let mut pair = Supervised::start()?;
    let _serving = Server::start(pair.server(), &[pair.server().at(PORT)], "--echo")?;
    pair.client_agent.kill()?;
    let deadline = Instant::now() + LIMIT;
    let refused = loop {
        // Those that connect wait in vain, and are ended here.
        match Client::try_connect(pair.client(), pair.server().at(PORT), "--send 5000")? {
            Ok(_) => ensure!(
                Instant::now() < deadline,
                "it waits for an agent that is gone"
            ),
            Err((errno, _)) => break errno,
        }
    };
    assert_eq!(refused, "ECONNREFUSED");
    pair.client_agent.restart()?;
    pair.client_agent.wait_until_ready()?;
    assert!(pair.client_agent.refusals("agent-stale")? > 0);
    Ok(())
}

#[test]
fn what_is_of_no_use_is_closed_and_taken_out_of_the_store() -> Result<()> {
    require!();
    let mut pair = Supervised::start()?;
    let before = pair.manager.stored();
    let name_of = |purpose: &str| {
        let name = before.keys().find(|name| name.starts_with(purpose));
        name.cloned().unwrap_or_default()
    };
    let listener = || TcpListener::bind("127.0.0.1:0");
    let egress = name_of("egress4");
    let (_, rest) = egress.split_once('.').unwrap_or_default();
    let port = listener()?.local_addr()?.port();
    let bad = [
        // Not of this agent.
        ("stored".to_owned(), "is not one of this agent's"),
        ("connection".to_owned(), "is not one of this agent's"),
        // In this process's namespace, and not where the name says.
        (
            format!("egress4.9.{}", after_dot(rest)),
            "another network namespace",
        ),
        (
            format!("127.0.0.1-{}.{rest}", port ^ 1),
            "which is not where its name says",
        ),
        // Of another build.
        (
            format!(
                "{}.ffffffffffffffff",
                egress.rsplit_once('.').unwrap_or_default().0
            ),
            "other eBPF maps",
        ),
    ];
    pair.client_agent.kill()?;
    for (name, _) in &bad {
        pair.manager.put(name, listener()?);
    }
    pair.manager.put("file", File::open("/dev/null")?);
    let datagrams = UdpSocket::bind("127.0.0.1:0")?;
    pair.manager
        .put(&format!("ingress4.9.{}", after_dot(rest)), datagrams);
    // A second one of a name that is in use.
    pair.manager.put(&name_of("ingress4"), listener()?);
    pair.client_agent.restart()?;
    pair.client_agent.wait_until_ready()?;

    pair.manager.wait_until_stored(|stored| *stored == before)?;
    let log = pair.client_agent.log();
    for (name, why) in bad {
        let told = |line: &str| line.contains(&name) && line.contains(why);
        assert!(log.lines().any(told), "{name}: {why}\n{log}");
    }
    pair.assert_served()
}

#[test]
fn a_workload_that_has_gone_is_forgotten_by_the_store() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let manager = ServiceManager::start(&bed, "node")?;
    let workload = |name| anyhow::Ok(WorkloadConfig::of(bed.host(name), &mesh.issue(name)?));
    let both = vec![workload("client")?, workload("server")?];
    let config = AgentConfig::new(both)?.supervised_by(&manager)?;
    let mut agent = Agent::start_with(&bed, config)?;
    let of = |stored: &BTreeMap<String, u64>, host: &str| {
        let part = format!(".{host}.");
        stored.keys().filter(|name| name.contains(&part)).count()
    };
    manager.wait_until_stored(|stored| of(stored, "client") > 0 && of(stored, "server") > 0)?;
    // By a restart, and by a reload.
    agent.kill()?;
    agent.rewrite(|config| drop(config.workloads().pop()))?;
    agent.restart()?;
    manager.wait_until_stored(|stored| of(stored, "client") > 0 && of(stored, "server") == 0)?;
    let server = workload("server")?;
    agent.reconfigure(|config| config.workloads().push(server))?;
    manager.wait_until_stored(|stored| of(stored, "server") > 0)?;
    agent.reconfigure(|config| drop(config.workloads().pop()))?;
    manager.wait_until_stored(|stored| of(stored, "client") > 0 && of(stored, "server") == 0)
}

#[test]
fn a_listener_of_the_configuration_is_kept_as_long_as_it_is_there() -> Result<()> {
    require!();
    let mut pair = Supervised::start()?;
    let remote = pair.server().at(PORT).to_string();
    let listen: SocketAddr = "127.137.0.1:5432".parse()?;
    let rule = ListenerRule {
        listen: "127.137.0.1:5432".parse()?,
        remote,
    };
    pair.client_agent
        .reconfigure(|config| config.workloads()[0].listener.push(rule))?;
    let is_kept = |name: &String| name.starts_with("127.137.0.1-5432.");
    pair.manager
        .wait_until_stored(|stored| stored.keys().any(is_kept))?;
    let _serving = Server::start(pair.server(), &[pair.server().at(PORT)], "--echo")?;
    let waiting = pair.wait_in_queue("client", listen)?;
    pair.client_agent.restart()?;
    pair.client_agent.wait_until_ready()?;
    for connection in waiting {
        connection.closed()?.assert_exact(5000, 5000);
    }
    pair.client_agent
        .reconfigure(|config| config.workloads()[0].listener.clear())?;
    pair.manager
        .wait_until_stored(|stored| !stored.keys().any(is_kept))
}

#[test]
fn an_heir_has_what_was_kept_for_the_agent_before_it() -> Result<()> {
    require!();
    let mut pair = Supervised::start()?;
    let before = pair.manager.stored();
    let old = pair.client_agent.take_over(Duration::from_mins(1))?;
    pair.assert_served()?;
    assert!(old.wait(LIMIT)?.status.success());
    assert_eq!(pair.manager.stored(), before);
    pair.client_agent.kill()?;
    pair.client_agent.restart()?;
    pair.client_agent.wait_until_ready()?;
    pair.assert_served()
}

#[test]
fn listeners_of_a_cgroup_that_is_gone_serve_all_the_same() -> Result<()> {
    require!();
    let mut pair = Supervised::start()?;
    // As systemd does between two processes of a unit. Twice: the second agent's own is another one.
    for _ in 0..2 {
        pair.client_agent.kill()?;
        pair.client_agent.renew_cgroup()?;
        pair.client_agent.restart()?;
        pair.client_agent.wait_until_ready()?;
        pair.assert_served()?;
    }
    Ok(())
}

/// A pair of which the client's agent, and the server's, has a service manager.
struct Supervised {
    pair: Pair,
    /// The client's.
    manager: ServiceManager,
}

impl std::ops::Deref for Supervised {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.pair
    }
}

impl std::ops::DerefMut for Supervised {
    fn deref_mut(&mut self) -> &mut Pair {
        &mut self.pair
    }
}

impl Supervised {
    fn start() -> Result<Self> {
        let (pair, [manager, _]) = Pair::start_supervised()?;
        manager.wait_until_stored(|stored| stored.keys().any(|it| it.starts_with("ingress6")))?;
        Ok(Self { pair, manager })
    }

    fn agent(&mut self, side: &str) -> &mut Agent {
        match side {
            "client" => &mut self.pair.client_agent,
            _ => &mut self.pair.server_agent,
        }
    }

    /// Kills the agent of this side, and connects while its heart is thought to beat.
    fn wait_in_queue(&mut self, side: &str, address: SocketAddr) -> Result<Vec<Client>> {
        for _ in 0..ATTEMPTS {
            self.agent(side).kill()?;
            let clients = (0..3)
                .map(|_| Client::start(self.client(), address, "--send 5000"))
                .collect::<Result<Vec<_>>>()?;
            let connected = clients.iter().map(Client::outcome);
            if connected
                .collect::<Result<Vec<_>>>()?
                .iter()
                .all(Result::is_ok)
            {
                return Ok(clients);
            }
            // The machine was too slow.
            self.agent(side).restart()?;
            self.agent(side).wait_until_ready()?;
        }
        bail!("no connection was made in the first 0.8 s in {ATTEMPTS} attempts")
    }
}

fn start(bed: &Testbed, watchdog_usec: &str) -> Result<(Agent, ServiceManager)> {
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let manager = ServiceManager::start(bed, "client")?;
    let workload = WorkloadConfig::of(bed.host("client"), &mesh.issue("client")?);
    let config = AgentConfig::new(vec![workload])?
        .supervised_by(&manager)?
        .with_variable("WATCHDOG_USEC", watchdog_usec);
    Ok((Agent::start_with(bed, config)?, manager))
}

fn after_dot(text: &str) -> &str {
    text.split_once('.').map_or("", |(_, rest)| rest)
}

const ATTEMPTS: usize = 10;
const LIMIT: Duration = Duration::from_mins(1);
