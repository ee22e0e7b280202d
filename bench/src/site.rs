//! Where a trial takes place: two hosts joined by a veth pair, with nothing or with an agent
//! beside each.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::Value;
use testbed::admin::Answer;
use testbed::pki::Mesh;
use testbed::{Host, HostCommand, Running, Testbed, agent};

/// Two hosts, `client` and `server`. Dropping it ends what runs on them and removes them.
#[derive(Debug)]
pub(crate) struct Site {
    agents: Agents,
    bed: Testbed,
}

#[derive(Debug)]
enum Agents {
    None,
    Client { _agent: Agent },
    Both(Sides<Agent>),
}

/// One of something for the client's side and one for the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Sides<T> {
    /// Of the side that connects.
    pub client: T,
    /// Of the side that accepts.
    pub server: T,
}

/// What of an agent's configuration is not as it is by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    /// Of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offload: Option<&'static str>,
    /// Of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splice: Option<&'static str>,
    /// Of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_acceleration: Option<&'static str>,
    /// Of its workload.
    #[serde(skip)]
    pub egress_default: Option<&'static str>,
}

/// An agent of one workload: in its network namespace, logging to a file.
#[derive(Debug)]
struct Agent {
    log: PathBuf,
    running: Running,
}

impl Site {
    /// Two hosts whose programs talk without any proxy.
    pub(crate) fn direct() -> Result<Self> {
        let bed = Testbed::new(&["client", "server"])?;
        join(&bed)?;
        Ok(Self {
            agents: Agents::None,
            bed,
        })
    }

    /// Two hosts whose programs talk through an agent on each side.
    pub(crate) fn sealwire() -> Result<Self> {
        let names = Sides {
            client: "client",
            server: "server",
        };
        Self::sealwire_with(names.map(|_| Setting::default()))
    }

    /// The same with agents that are set as said.
    pub(crate) fn sealwire_with(settings: Sides<Setting>) -> Result<Self> {
        let Self { bed, .. } = Self::direct()?;
        let mesh = Mesh::new(&bed.directory().join("mesh"))?;
        let start = |name, setting| Agent::start(&bed, name, setting, &mesh.issue(name)?);
        let agents = Sides {
            client: start("client", settings.client)?,
            server: start("server", settings.server)?,
        };
        Ok(Self {
            agents: Agents::Both(agents),
            bed,
        })
    }

    /// Two hosts with an agent beside the client alone.
    pub(crate) fn client_agent(setting: Setting) -> Result<Self> {
        let Self { bed, .. } = Self::direct()?;
        let mesh = Mesh::new(&bed.directory().join("mesh"))?;
        let agent = Agent::start(&bed, "client", setting, &mesh.issue("client")?)?;
        Ok(Self {
            agents: Agents::Client { _agent: agent },
            bed,
        })
    }

    /// The host whose programs connect.
    pub(crate) fn client(&self) -> &Host {
        self.bed.host("client")
    }

    /// The host whose programs listen.
    pub(crate) fn server(&self) -> &Host {
        self.bed.host("server")
    }

    /// A directory for files of its programs.
    pub(crate) fn directory(&self) -> &Path {
        self.bed.directory()
    }

    /// The processes of the agents, if both sides have one.
    pub(crate) fn agents(&self) -> Option<Sides<Pid>> {
        match &self.agents {
            Agents::None | Agents::Client { .. } => None,
            Agents::Both(Sides { client, server }) => Some(Sides {
                client: client.running.pid(),
                server: server.running.pid(),
            }),
        }
    }

    /// What an agent says of the connections that it has.
    pub(crate) fn connections(host: &Host) -> Result<Value> {
        host.run_in_thread(|| Answer::fetch(ADMIN_PORT, "/connections"))??
            .json()
    }

    /// This harness itself as a program on a host, for [`crate::load`].
    pub(crate) fn load(host: &Host) -> Result<HostCommand> {
        let harness = std::env::current_exe().context("could not find this program's file")?;
        Ok(host.command(harness).arg("load"))
    }
}

impl<T> Sides<T> {
    /// The same of something made of each side's.
    pub(crate) fn map<U>(self, mut make: impl FnMut(T) -> U) -> Sides<U> {
        Sides {
            client: make(self.client),
            server: make(self.server),
        }
    }

    /// The same of something made of each side's.
    pub(crate) fn try_map<U>(self, mut make: impl FnMut(T) -> Result<U>) -> Result<Sides<U>> {
        Ok(Sides {
            client: make(self.client)?,
            server: make(self.server)?,
        })
    }
}

/// An agent's configuration file.
#[derive(Debug, Serialize)]
struct AgentFile<'a> {
    admin_port: u16,
    #[serde(flatten)]
    setting: Setting,
    workload: [WorkloadTable<'a>; 1],
}

#[derive(Debug, Serialize)]
struct WorkloadTable<'a> {
    name: &'a str,
    cgroup: &'a Path,
    tls_dir: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_default: Option<&'static str>,
}

impl Agent {
    fn start(bed: &Testbed, workload: &str, setting: Setting, tls_dir: &Path) -> Result<Self> {
        let host = bed.host(workload);
        let log = bed.directory().join(format!("{workload}.log"));
        let file = bed.directory().join(format!("{workload}.toml"));
        let config = AgentFile {
            admin_port: ADMIN_PORT,
            setting,
            workload: [WorkloadTable {
                name: workload,
                cgroup: host.cgroup(),
                tls_dir,
                egress_default: setting.egress_default,
            }],
        };
        fs::write(&file, toml::to_string(&config)?)?;
        // Below the testbed's own cgroup, so that its guard ends the agent whatever happens here.
        let cgroup = host.cgroup().with_file_name(format!("agent-{workload}"));
        fs::create_dir(&cgroup)
            .with_context(|| format!("could not make the cgroup {}", cgroup.display()))?;
        let running = host
            .command("sh")
            .outside_the_cgroup()
            .args(["-c", ENTER_AND_LOG, "sh"])
            .args([&cgroup, &log, &agent::binary()])
            .arg("--config")
            .arg(&file)
            .args(["--instance", &format!("{}-{workload}", bed.id())])
            .spawn()?;
        let agent = Self { log, running };
        agent.wait_until_ready(host)?;
        Ok(agent)
    }

    fn wait_until_ready(&self, host: &Host) -> Result<()> {
        let deadline = Instant::now() + READY_DEADLINE;
        while Instant::now() < deadline && !self.running.has_ended() {
            let answer = host.run_in_thread(|| Answer::fetch(ADMIN_PORT, "/ready"))?;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        bail!("the agent of {} did not get ready\n{log}", host.name())
    }
}

/// Replaces the testbed's bridge by a veth pair, and makes room for many connections.
fn join(bed: &Testbed) -> Result<()> {
    let (client, server) = (bed.host("client"), bed.host("server"));
    for host in [client, server] {
        host.ip("link del eth0")?;
    }
    let netns = server.netns();
    let netns = netns.file_name().context("a namespace has no name")?;
    client.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}",
        netns.display()
    ))?;
    for host in [client, server] {
        let address = host.v4();
        host.ip(&format!(
            "addr add {address}/24 dev eth0\n\
             link set eth0 up\n\
             route replace {NETWORK} dev eth0 src {address} congctl cubic\n"
        ))?;
        // Programs reach the agent through these.
        for local in ["127.0.0.0/8", "127.0.0.1"] {
            host.ip(&local_route(local, "lo", "127.0.0.1"))?;
        }
        let address = address.to_string();
        host.ip(&local_route(&address, "eth0", &address))?;
        for (sysctl, value) in SYSCTLS {
            host.sysctl(sysctl, value)?;
        }
    }
    Ok(())
}

/// Sets the congestion control of a route that the kernel made; a namespace's own sysctl for it
/// may not be writable.
fn local_route(destination: &str, device: &str, source: &str) -> String {
    format!(
        "route replace local {destination} dev {device} table local \
         proto kernel scope host src {source} congctl cubic"
    )
}

/// Enters the cgroup $1, logs to $2, and becomes the rest.
const ENTER_AND_LOG: &str = r#"echo 0 > "$1/cgroup.procs" && exec 2> "$2" && shift 2 && exec "$@""#;

const NETWORK: &str = "10.77.0.0/24";
const ADMIN_PORT: u16 = 9464;
const READY_DEADLINE: Duration = Duration::from_secs(10);

/// Ports for tens of thousands of connections, and listeners that take bursts of them.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/ip_local_port_range", "10240 65535"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/ipv4/tcp_max_syn_backlog", "8192"),
    ("net/core/somaxconn", "8192"),
];
