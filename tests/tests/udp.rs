//! `udp = "deny"`: no datagram leaves the namespace of the workload.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::dns::NameServer;
use testbed::pair::PORT;
use testbed::testbed::Host;
use testbed::{Agent, Client, EgressRule, Pair, Server, require};

#[test]
fn by_default_datagrams_go_out_and_are_counted() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let before = datagrams(&pair.client_agent)?;
    for to in inboxes(&pair) {
        assert!(arrives(pair.client(), pair.server(), to)?, "{to}");
    }
    pair.client_agent
        .wait_for("two more datagrams are not counted", |agent| {
            Ok(datagrams(agent)? >= before + 2)
        })
}

#[test]
fn where_they_are_denied_none_leaves_the_namespace() -> Result<()> {
    require!();
    let pair = denied()?;
    for to in inboxes(&pair) {
        assert!(!arrives(pair.client(), pair.server(), to)?, "{to}");
        let line = pair
            .client_agent
            .refused(|line| line["to"] == to.to_string())?;
        assert_eq!(line["reason"], "udp-denied");
        // From outside the workload's cgroup, in its namespace.
        let inbox = Inbox::open(pair.server(), to)?;
        pair.client().run_in_thread(|| {
            let socket = UdpSocket::bind((unspecified(to), 0))?;
            socket.send_to(HELLO, to)
        })??;
        assert!(!inbox.receives()?, "{to}");
    }
    pair.client_agent
        .wait_for("four refusals are not counted", |agent| {
            let reason = [("reason", "udp-denied")];
            let refused = agent
                .metrics()?
                .sum("sealwire_kernel_refusals_total", &reason);
            Ok(refused >= 4)
        })?;
    // On the loopback they go on, and so does what is protected.
    let loopback = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), INBOX);
    assert!(arrives(pair.client(), pair.client(), loopback)?);
    pair.assert_served()
}

#[test]
fn they_are_denied_while_the_agent_is_dead_and_until_the_rules_say_otherwise() -> Result<()> {
    require!();
    let mut pair = denied()?;
    let [to, _] = inboxes(&pair);
    pair.client_agent.kill()?;
    assert!(!arrives(pair.client(), pair.server(), to)?);
    pair.client_agent.restart()?;
    assert!(!arrives(pair.client(), pair.server(), to)?);
    pair.client_agent
        .reconfigure(|config| config.workloads()[0].udp = "allow")?;
    assert!(arrives(pair.client(), pair.server(), to)?);
    pair.client_agent
        .reconfigure(|config| config.workloads()[0].udp = "deny")?;
    assert!(!arrives(pair.client(), pair.server(), to)?);
    Ok(())
}

#[test]
fn the_agent_looks_up_names_all_the_same() -> Result<()> {
    require!();
    let mut names = None;
    let pair = Pair::start_tuned(
        |bed, client, _| {
            client.udp = "deny";
            client.egress = vec![EgressRule::to_name("bad.test", "deny")];
            names = Some(NameServer::start(
                bed.host("outsider"),
                &[bed.host("client")],
            ));
        },
        |_, client, server| (client, server),
    )?;
    let names = names.ok_or_else(|| anyhow::anyhow!("no name server"))??;
    names.set("bad.test.", &[pair.server().v4()]);
    let _serving = Server::start(pair.server(), &[pair.server().at(PORT)], "--echo")?;
    let start = Instant::now();
    while pair.client_agent.refusals("denied-by-rule")? == 0 {
        ensure!(start.elapsed() < PATIENCE, "the name is not followed");
        Client::run(pair.client(), pair.server().at(PORT), "--send 10")?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

// === the scene ===

const INBOX: u16 = 5353;
const HELLO: &[u8] = b"hello";
const PATIENCE: Duration = Duration::from_secs(40);

fn denied() -> Result<Pair> {
    Pair::start_with(|client, _| client.udp = "deny")
}

fn inboxes(pair: &Pair) -> [SocketAddr; 2] {
    [pair.server().at(INBOX), pair.server().at_v6(INBOX)]
}

/// Whether a datagram of a program in the workload's cgroup arrives; where not, the program hears of it.
fn arrives(from: &Host, host: &Host, to: SocketAddr) -> Result<bool> {
    let inbox = Inbox::open(host, to)?;
    let send = format!("echo -n hello > /dev/udp/{}/{}", to.ip(), to.port());
    let bash = from
        .command("bash")
        .args(["-c", &send])
        .run(Duration::from_secs(10))?;
    let arrives = inbox.receives()?;
    if !arrives {
        let said = bash.stderr_text();
        assert!(said.contains("not permitted"), "{said}");
    }
    Ok(arrives)
}

struct Inbox(UdpSocket);

impl Inbox {
    fn open(host: &Host, at: SocketAddr) -> Result<Self> {
        let socket = host.run_in_thread(|| UdpSocket::bind((unspecified(at), at.port())))??;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(Self(socket))
    }

    fn receives(&self) -> Result<bool> {
        let mut buffer = [0; 16];
        match self.0.recv(&mut buffer) {
            Ok(len) => {
                assert_eq!(&buffer[..len], HELLO);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn unspecified(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => IpAddr::from([0, 0, 0, 0]),
        SocketAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

fn datagrams(agent: &Agent) -> Result<u64> {
    let metrics = agent.metrics()?;
    Ok(metrics.sum("sealwire_udp_datagrams_total", &[]))
}
