//! A machine that boots: systemd as process 1 of namespaces of its own, with the units of `deploy/systemd`.
//!
//! Its network namespace is the one with the bridge of a testbed, so a sniffer can be there before the machine is
//! switched on. Its processes, its pins and its `/run` end with its power.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::admin::{Answer, Metrics};
use crate::agent::{self, AgentConfig, WorkloadConfig};
use crate::cgroup;
use crate::peer;
use crate::pki::Mesh;
use crate::program::{Finished, HostCommand, Running, tail};
use crate::testbed::Testbed;

/// A machine with an agent and workloads. Dropping it cuts its power.
#[derive(Debug)]
pub struct Machine<'bed> {
    bed: &'bed Testbed,
    mesh: Mesh,
    disk: PathBuf,
    cgroup: PathBuf,
    config: AgentConfig,
    running: Option<Running>,
}

impl<'bed> Machine<'bed> {
    /// One that is switched off, installed as the guide says, with these workloads.
    pub fn install(bed: &'bed Testbed, workloads: &[&str]) -> Result<Self> {
        let disk = bed.directory().join("machine");
        for directory in ["etc/sealwire", "etc/systemd/system", "var/lib", "var/log"] {
            fs::create_dir_all(disk.join(directory))?;
        }
        let mut machine = Self {
            mesh: Mesh::new(&disk.join("etc/sealwire/mesh"))?,
            cgroup: bed.cgroup("machine")?,
            config: AgentConfig::new(Vec::new())?,
            running: None,
            bed,
            disk,
        };
        for unit in OF_SYSTEMD {
            let text = fs::read_to_string(Path::new("/lib/systemd/system").join(unit))
                .with_context(|| format!("systemd comes without {unit}"))?;
            machine.write_unit(unit, &text)?;
        }
        let wants = machine.units().join("sysinit.target.wants");
        fs::create_dir(&wants)?;
        symlink(Path::new("..").join(JOURNAL), wants.join(JOURNAL))?;
        for unit in [AGENT, "sealwire-workload@.service"] {
            machine.write_unit(unit, &shipped(unit)?)?;
        }
        machine.enable(AGENT)?;
        for workload in workloads {
            machine.add_workload(workload)?;
        }
        Ok(machine)
    }

    /// Installs another workload: its certificate, its address, and a unit of its name, which does nothing. It is in
    /// the agent's configuration from now on.
    pub fn add_workload(&mut self, name: &str) -> Result<()> {
        let instance = format!("sealwire-workload@{name}.service");
        let address = format!("10.77.0.{}", 101 + self.config.workloads().len());
        self.drop_in(&instance, "network.conf", &connected_at(&address))?;
        self.enable(&instance)?;
        let unit = format!("{name}.service");
        self.write_unit(&unit, IDLE)?;
        self.drop_in(&unit, "sealwire.conf", &shipped("workload.conf")?)?;
        self.enable(&unit)?;

        let tls_dir = self.mesh.issue(name)?;
        let workload = WorkloadConfig {
            name: name.to_owned(),
            cgroup: format!("/sys/fs/cgroup/sealwire.slice/sealwire-{name}.slice").into(),
            netns: format!("/run/netns/{name}").into(),
            tls_dir: Some(Path::new("/").join(tls_dir.strip_prefix(&self.disk)?)),
            ..WorkloadConfig::default()
        };
        self.rewrite(|config| config.workloads().push(workload))
    }

    /// Changes the agent's configuration and writes its file anew; nobody is told.
    pub fn rewrite(&mut self, change: impl FnOnce(&mut AgentConfig)) -> Result<()> {
        change(&mut self.config);
        self.rewrite_as(&toml::to_string(&self.config)?)
    }

    /// Writes this into the agent's file, in one step as an editor does.
    pub fn rewrite_as(&self, text: &str) -> Result<()> {
        let file = self.disk.join("etc/sealwire/agent.toml");
        let new = file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &file).context("replacing the configuration")
    }

    /// Writes a file of a unit.
    pub fn write_unit(&self, unit: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.units().join(unit), text)?)
    }

    /// Writes a drop-in of a unit.
    pub fn drop_in(&self, unit: &str, name: &str, text: &str) -> Result<()> {
        let directory = self.units().join(format!("{unit}.d"));
        fs::create_dir_all(&directory)?;
        Ok(fs::write(directory.join(name), text)?)
    }

    /// Switches it on, and waits until it has started what it starts by itself.
    pub fn boot(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the machine is on already");
        self.running = Some(
            HostCommand::new("unshare", self.bed.hub().path(), None)
                .args([
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--mount",
                    "--uts",
                    "--ipc",
                ])
                // The process that waits outside is in no cgroup of the machine.
                .args([
                    "sh",
                    "-c",
                    r#"echo 0 >"$0/cgroup.procs"; exec unshare --cgroup sh -c "$@""#,
                ])
                .arg(&self.cgroup)
                .args([include_str!("machine.sh"), "machine.sh"])
                .arg(&self.disk)
                .arg(agent::binary())
                .spawn()?,
        );
        self.wait_for("it does not boot", |machine| {
            let comm = fs::read_to_string(format!("/proc/{}/comm", machine.first_process()?))?;
            // Until then it would be the host's that answers.
            ensure!(comm == "systemd\n", "{comm}");
            let state = machine.systemctl(&["is-system-running", "--wait"])?.text();
            Ok(["running\n", "degraded\n"].contains(&state.as_str()))
        })
    }

    /// Cuts its power: nothing of it runs on, and only its disk is left.
    pub fn cut_power(&mut self) -> Result<()> {
        drop(self.running.take().context("the machine is off already")?);
        cgroup::remove(&self.cgroup)?;
        Ok(fs::create_dir(&self.cgroup)?)
    }

    /// Runs a program on it, as root does; however it ends.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Finished> {
        HostCommand::new("nsenter", self.bed.hub().path(), None)
            .args([
                "--target",
                &self.first_process()?,
                "--all",
                "--wd=/",
                program,
            ])
            .args(arguments)
            .run(LIMIT)
    }

    /// Runs `systemctl` on it; however it ends.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<Finished> {
        self.run("systemctl", arguments)
    }

    /// What systemd knows of a unit, `ActiveState` say.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let shown = self.systemctl(&["show", "--value", "--property", name, unit])?;
        Ok(shown.success()?.text().trim().to_owned())
    }

    /// All that was logged since it was switched on.
    pub fn journal(&self) -> Result<String> {
        let read = self.run("journalctl", &["--output=cat", "--no-pager"])?;
        Ok(read.success()?.text())
    }

    /// Whether its agent is ready, and what that says of each workload.
    pub fn ready(&self) -> Result<(bool, Value)> {
        let answer = self.ask("/ready")?;
        Ok((answer.status == 200, answer.json()?))
    }

    /// The counters of its agent.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&self.ask("/metrics")?.body))
    }

    /// `peer` as a process of a workload's unit, with no arguments yet. The unit must run.
    pub fn peer(&self, workload: &str) -> Result<HostCommand> {
        let netns = format!("/proc/{}/root/run/netns/{workload}", self.first_process()?);
        let unit = format!("sealwire.slice/sealwire-{workload}.slice/{workload}.service");
        Ok(HostCommand::new(
            peer::binary()?,
            netns.into(),
            Some(self.cgroup.join(unit)),
        ))
    }

    /// The address of a workload, the first being number 0.
    pub fn address(&self, workload: usize) -> std::net::IpAddr {
        std::net::Ipv4Addr::new(10, 77, 0, 101 + workload as u8).into()
    }

    /// Waits until something is true of it.
    pub fn wait_for(
        &self,
        otherwise: &str,
        mut holds: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let outcome = holds(self);
            if matches!(outcome, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("machine: {otherwise}: {outcome:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn ask(&self, path: &str) -> Result<Answer> {
        let port = self.config.admin_port();
        self.bed.hub().run_in_thread(|| Answer::fetch(port, path))?
    }

    /// The number that its process 1 has on the host.
    fn first_process(&self) -> Result<String> {
        let outside = self.running.as_ref().context("the machine is off")?.pid();
        let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children"))?;
        let child = children.split_whitespace().next();
        Ok(child.context("the machine has no process")?.to_owned())
    }

    fn units(&self) -> PathBuf {
        self.disk.join("etc/systemd/system")
    }

    /// Lets a unit start when the machine is switched on.
    fn enable(&self, unit: &str) -> Result<()> {
        HostCommand::new("systemctl", self.bed.hub().path(), None)
            .arg("--root")
            .arg(&self.disk)
            .args(["enable", unit])
            .run(LIMIT)?
            .success()
            .map(drop)
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            // Shown only of a test that fails.
            eprintln!("what the machine said:\n{}", tail(&running.stderr()));
            let journal = self.journal().unwrap_or_else(|error| format!("{error:#}"));
            eprintln!("its journal:\n{}", tail(&journal));
        }
    }
}

/// A file of `deploy/systemd`.
pub fn shipped(name: &str) -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/systemd")
        .join(name);
    fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
}

/// How the namespace of a workload is connected to the bridge.
fn connected_at(address: &str) -> String {
    format!(
        "[Service]\n\
         ExecStartPost=/sbin/ip link add to-%i type veth peer name eth0 netns %i\n\
         ExecStartPost=/sbin/ip link set to-%i master br0 addrgenmode none up\n\
         ExecStartPost=/sbin/ip -n %i link set eth0 addrgenmode none\n\
         ExecStartPost=/sbin/ip -n %i address add {address}/24 dev eth0\n\
         ExecStartPost=/sbin/ip -n %i link set eth0 up\n"
    )
}

/// The agent's unit.
pub const AGENT: &str = "sealwire-agent.service";
/// The unit of a workload that waits for programs of a test.
const IDLE: &str = "[Service]\n\
    ExecStart=/bin/sleep infinity\n\
    [Install]\n\
    WantedBy=multi-user.target\n";
const JOURNAL: &str = "systemd-journald.service";
/// What Debian's systemd has by default, as far as a machine needs it that only has workloads.
const OF_SYSTEMD: [&str; 18] = [
    JOURNAL,
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "basic.target",
    "final.target",
    "local-fs-pre.target",
    "local-fs.target",
    "multi-user.target",
    "network-online.target",
    "network-pre.target",
    "network.target",
    "paths.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "sysinit.target",
    "timers.target",
    "umount.target",
];
const LIMIT: Duration = Duration::from_mins(1);
