//! Two hosts whose programs talk through Sealwire, an agent for each, and a third host without.

use std::env;

use anyhow::{Result, ensure};

use crate::agent::{Agent, AgentConfig, WorkloadConfig};
use crate::coordinator::Coordinator;
use crate::peer::{Client, Closed, Server};
use crate::pki::Mesh;
use crate::service_manager::ServiceManager;
use crate::sniffer::Capture;
use crate::testbed::{Host, Testbed};

/// The hosts `client`, `server` and `outsider`; the first two are workloads of one mesh, each with
/// an agent of its own.
#[derive(Debug)]
pub struct Pair {
    /// The agent of the host `client`.
    pub client_agent: Agent,
    /// The agent of the host `server`.
    pub server_agent: Agent,
    /// What issued their certificates.
    pub mesh: Mesh,
    /// Their network.
    pub bed: Testbed,
}

impl Pair {
    /// With the default configuration: mTLS with any workload of the mesh.
    pub fn start() -> Result<Self> {
        Self::start_with(|_, _| {})
    }

    /// With the configurations of the client's and the server's workload changed.
    pub fn start_with(
        change: impl FnOnce(&mut WorkloadConfig, &mut WorkloadConfig),
    ) -> Result<Self> {
        Self::start_tuned(
            |_, client, server| change(client, server),
            |_, client, server| (client, server),
        )
    }

    /// With agents of one worker each, which keep connections in their order.
    pub fn start_in_order() -> Result<Self> {
        Self::start_tuned(
            |_, _, _| {},
            |_, client, server| (client.with_workers(1), server.with_workers(1)),
        )
    }

    /// With `local_acceleration = "sk-msg"`.
    pub fn start_accelerated() -> Result<Self> {
        Self::start_tuned(
            |_, _, _| {},
            |_, client, server| {
                (
                    client.with_local_acceleration(),
                    server.with_local_acceleration(),
                )
            },
        )
    }

    /// With a service manager for each agent: the client's, the server's.
    pub fn start_supervised() -> Result<(Self, [ServiceManager; 2])> {
        let bed = Testbed::new(HOSTS)?;
        let client = ServiceManager::start(&bed, "client")?;
        let server = ServiceManager::start(&bed, "server")?;
        let tune = |_: &Testbed, of_client: AgentConfig, of_server: AgentConfig| {
            Ok((
                of_client.supervised_by(&client)?,
                of_server.supervised_by(&server)?,
            ))
        };
        let pair = Self::start_on(bed, |_, _, _| {}, tune)?;
        Ok((pair, [client, server]))
    }

    /// With the configurations of the client's and the server's workload changed, and of their agents.
    pub fn start_tuned(
        change: impl FnOnce(&Testbed, &mut WorkloadConfig, &mut WorkloadConfig),
        tune: impl FnOnce(&Testbed, AgentConfig, AgentConfig) -> (AgentConfig, AgentConfig),
    ) -> Result<Self> {
        Self::start_on(Testbed::new(HOSTS)?, change, |bed, client, server| {
            Ok(tune(bed, client, server))
        })
    }

    fn start_on(
        bed: Testbed,
        change: impl FnOnce(&Testbed, &mut WorkloadConfig, &mut WorkloadConfig),
        tune: impl FnOnce(&Testbed, AgentConfig, AgentConfig) -> Result<(AgentConfig, AgentConfig)>,
    ) -> Result<Self> {
        let mesh = Mesh::new(&bed.directory().join("mesh"))?;
        let workload = |name| anyhow::Ok(WorkloadConfig::of(bed.host(name), &mesh.issue(name)?));
        let (mut client, mut server) = (workload("client")?, workload("server")?);
        change(&bed, &mut client, &mut server);
        let [client, server] = [client, server].map(|workload| AgentConfig::new(vec![workload]));
        let (client, server) = tune(&bed, client?, server?)?;
        Ok(Self {
            client_agent: Agent::start_with(&bed, client)?,
            server_agent: Agent::start_with(&bed, server)?,
            mesh,
            bed,
        })
    }

    /// The host whose programs connect.
    pub fn client(&self) -> &Host {
        self.bed.host("client")
    }

    /// The host whose programs listen.
    pub fn server(&self) -> &Host {
        self.bed.host("server")
    }

    /// The host without an agent.
    pub fn outsider(&self) -> &Host {
        self.bed.host("outsider")
    }

    /// Holds one conversation with these options of `peer`, and watches the wire meanwhile: what
    /// the client saw, what the server saw, what was on the wire.
    pub fn converse(&self, client: &str, server: &str) -> Result<(Closed, Closed, Capture)> {
        converse(&self.bed, client, server)
    }

    /// The client sends `up` bytes and the server `down`: every byte arrives, none in clear.
    pub fn assert_exact(&self, up: u64, down: u64, client: &str, server: &str) -> Result<()> {
        assert_exact(&self.bed, up, down, client, server)?;
        self.assert_datapath()
    }

    /// Both agents have used the datapath that this run is about.
    fn assert_datapath(&self) -> Result<()> {
        let Some(expected) = wanted_datapath() else {
            return Ok(());
        };
        for agent in [&self.client_agent, &self.server_agent] {
            let metrics = agent.metrics()?;
            let used = metrics.sum("sealwire_datapaths_total", &[("datapath", &expected)]);
            ensure!(used > 0, "no connection went by the datapath {expected}");
        }
        Ok(())
    }

    /// A short conversation works, protected.
    pub fn assert_served(&self) -> Result<()> {
        assert_served(&self.bed)?;
        self.assert_datapath()
    }
}

/// The positive control of every test that looks for plaintext: without agents the sniffer sees it.
pub fn assert_plaintext_is_seen_without_agents() -> Result<()> {
    let bed = Testbed::new(&["client", "server"])?;
    let address = bed.host("server").at(PORT);
    let _serving = Server::start(bed.host("server"), &[address], "--echo")?;
    let sniffer = bed.sniff()?;
    Client::run(bed.host("client"), address, "--send 5000")?.assert_exact(5000, 5000);
    sniffer.finish()?.assert_saw_plaintext();
    Ok(())
}

/// The datapath that this run of the tests is about, where `SEALWIRE_TEST_DATAPATH` names one.
pub fn wanted_datapath() -> Option<String> {
    env::var("SEALWIRE_TEST_DATAPATH").ok()
}

/// The same, with certificates from a Coordinator in place of files.
#[derive(Debug)]
pub struct EnrolledPair {
    /// The agent of the host `client`.
    pub client_agent: Agent,
    /// The agent of the host `server`.
    pub server_agent: Agent,
    /// What gives them their certificates. Its manifest lists the workloads `client`, `server` and
    /// `bystander`, which does not run.
    pub coordinator: Coordinator,
    /// Their network.
    pub bed: Testbed,
}

impl EnrolledPair {
    /// A Coordinator with its first manifest, and agents that are ready.
    pub fn start() -> Result<Self> {
        let bed = Testbed::new(&["client", "server", "outsider"])?;
        let coordinator = Coordinator::start(&bed, &["client", "server", "bystander"])?;
        Ok(Self {
            client_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "client")?)?,
            server_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "server")?)?,
            coordinator,
            bed,
        })
    }

    /// The host whose programs connect.
    pub fn client(&self) -> &Host {
        self.bed.host("client")
    }

    /// The host whose programs listen.
    pub fn server(&self) -> &Host {
        self.bed.host("server")
    }

    /// A short conversation works, protected.
    pub fn assert_served(&self) -> Result<()> {
        assert_served(&self.bed)
    }
}

/// The configuration of the agent of one host, whose workload is called as the host is.
pub fn enrolled(bed: &Testbed, coordinator: &Coordinator, host: &str) -> Result<AgentConfig> {
    let workload = WorkloadConfig::without_certificate(bed.host(host));
    Ok(AgentConfig::new(vec![workload])?.enrolled(coordinator.config_for(host)))
}

fn converse(bed: &Testbed, client: &str, server: &str) -> Result<(Closed, Closed, Capture)> {
    let address = bed.host("server").at(PORT);
    let serving = Server::start(bed.host("server"), &[address], server)?;
    let sniffer = bed.sniff()?;
    let said = Client::run(bed.host("client"), address, client)?;
    let heard = serving.closed(0)?;
    Ok((said, heard, sniffer.finish()?))
}

fn assert_exact(bed: &Testbed, up: u64, down: u64, client: &str, server: &str) -> Result<()> {
    let (said, heard, capture) = converse(
        bed,
        &format!("--send {up} --seed 11 --expect-seed 22 {client}"),
        &format!("--send {down} --seed 22 --expect-seed 11 {server}"),
    )?;
    said.assert_exact(up, down);
    heard.assert_exact(down, up);
    capture.assert_only_ciphertext(up + down);
    Ok(())
}

fn assert_served(bed: &Testbed) -> Result<()> {
    assert_exact(bed, 3000, 2000, "", "")
}

const HOSTS: &[&str] = &["client", "server", "outsider"];

/// The port of [`Pair::converse`].
pub const PORT: u16 = 4000;
