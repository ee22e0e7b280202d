//! The agent under test: a process of the root namespace, in a cgroup of its own.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fmt};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::Value;

use crate::admin::{Answer, Metrics};
use crate::clock::Clock;
use crate::coordinator::CoordinatorConfig;
use crate::program::{Finished, HostCommand, Running, tail};
use crate::service_manager::ServiceManager;
use crate::testbed::{Host, Testbed};

/// A running agent. Dropping it kills the agent and leaves its pins to the testbed; a test whose
/// agent died by itself fails.
pub struct Agent {
    config: AgentConfig,
    config_file: PathBuf,
    instance: String,
    cgroup: PathBuf,
    program: PathBuf,
    running: Option<Running>,
}

impl Agent {
    /// Starts an agent and waits until all its workloads are ready.
    pub fn start(bed: &Testbed, workloads: Vec<WorkloadConfig>) -> Result<Self> {
        Self::start_with(bed, AgentConfig::new(workloads)?)
    }

    /// Starts an agent with this configuration and waits until all its workloads are ready.
    pub fn start_with(bed: &Testbed, config: AgentConfig) -> Result<Self> {
        let agent = Self::start_unready(bed, config)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Starts an agent and waits until it answers, ready or not.
    pub fn start_unready(bed: &Testbed, config: AgentConfig) -> Result<Self> {
        let instance = format!("{}-{}", bed.id(), config.admin_port);
        let config_file = bed.directory().join(format!("{instance}.toml"));
        fs::write(&config_file, toml::to_string(&config)?)?;
        let cgroup = bed.cgroup(&instance)?;
        let mut agent = Self {
            config,
            config_file,
            instance,
            cgroup,
            program: binary(),
            running: None,
        };
        agent.restart()?;
        Ok(agent)
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`], and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the agent runs already");
        self.running = Some(self.start_as_unit()?);
        self.wait_for("it did not answer", |agent| {
            agent.get("/ready").map(|_| true)
        })
    }

    /// Starts a process as its service manager would, if it has one; whether or not it can serve.
    pub fn start_as_unit(&self) -> Result<Running> {
        let command = self.command()?;
        match &self.config.manager {
            Some(manager) => command.passing(manager.pass_on()?),
            None => command,
        }
        .spawn()
    }

    /// Waits until all its workloads are ready.
    pub fn wait_until_ready(&self) -> Result<()> {
        self.wait_for("it is not ready", |agent| Ok(agent.ready()?.0))
    }

    /// Whether it is ready, and what it says of each workload.
    pub fn ready(&self) -> Result<(bool, Value)> {
        let answer = self.get("/ready")?;
        Ok((answer.status == 200, answer.json()?))
    }

    /// Its counters.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&self.metrics_text()?))
    }

    /// The same, as it writes them.
    pub fn metrics_text(&self) -> Result<String> {
        Ok(self.get("/metrics")?.body)
    }

    /// The loopback port on which it answers.
    pub fn admin_port(&self) -> u16 {
        self.config.admin_port
    }

    /// The connections that it has at present.
    pub fn connections(&self) -> Result<Vec<Value>> {
        match self.get("/connections")?.json()? {
            Value::Array(connections) => Ok(connections),
            other => bail!("/connections is no array: {other}"),
        }
    }

    /// How often connections were refused for this reason, by the kernel or by the agent.
    pub fn refusals(&self, reason: &str) -> Result<u64> {
        let metrics = self.metrics()?;
        Ok(
            ["sealwire_refusals_total", "sealwire_kernel_refusals_total"]
                .iter()
                .map(|name| metrics.sum(name, &[("reason", reason)]))
                .sum(),
        )
    }

    /// Waits until a refusal for this reason is counted and logged; its log line.
    pub fn refusal(&self, reason: &str) -> Result<Value> {
        self.wait_for(
            &format!("it did not count a refusal for {reason}"),
            |agent| Ok(agent.refusals(reason)? > 0),
        )?;
        self.refused(|line| line["reason"] == reason)
    }

    /// Waits for the log line of a refusal.
    pub fn refused(&self, matches: impl FnMut(&Value) -> bool) -> Result<Value> {
        self.log_line("refused", matches)
    }

    /// Waits for the access log line of a closed connection.
    pub fn access(&self, matches: impl FnMut(&Value) -> bool) -> Result<Value> {
        self.log_line("access", matches)
    }

    /// The first access log line so far that `matches`.
    pub fn find_access(&self, mut matches: impl FnMut(&Value) -> bool) -> Option<Value> {
        self.log()
            .lines()
            .filter_map(|line| fields(line, "access"))
            .find(|line| matches(line))
    }

    /// Waits until it carries no connection.
    pub fn wait_until_idle(&self) -> Result<()> {
        self.wait_for("connections stay open", |agent| {
            let open = agent.connections()?;
            ensure!(open.is_empty(), "{open:#?}");
            Ok(true)
        })
    }

    /// Waits until something is true of it.
    pub fn wait_for(
        &self,
        otherwise: &str,
        mut holds: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + self.config.patience;
        loop {
            let outcome = holds(self);
            if matches!(outcome, Ok(true)) {
                return Ok(());
            }
            let ended = self.running.as_ref().is_none_or(Running::has_ended);
            if ended || Instant::now() > deadline {
                let outcome = outcome
                    .err()
                    .map(|error| format!(": {error:#}"))
                    .unwrap_or_default();
                bail!("agent: {otherwise}{outcome}\n{}", tail(&self.log()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it with SIGKILL, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.running
            .take()
            .map(drop)
            .context("the agent does not run")
    }

    /// Ends it with SIGTERM, as a service manager does; how it ended.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        Ok(self
            .running
            .take()
            .context("the agent does not run")?
            .wait(LIMIT)?
            .status)
    }

    /// Changes its configuration and writes the file anew, in one step as an editor does.
    pub fn rewrite(&mut self, change: impl FnOnce(&mut AgentConfig)) -> Result<()> {
        change(&mut self.config);
        self.rewrite_as(&toml::to_string(&self.config)?)
    }

    /// The cgroup that its processes are started in.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its process.
    pub fn pid(&self) -> Result<Pid> {
        Ok(self.running()?.pid())
    }

    /// The process of its loader.
    pub fn loader(&self) -> Result<Pid> {
        let pid = self.pid()?;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let child = children.split_whitespace().next();
        let child = child.context("the agent has no loader")?;
        Ok(Pid::from_raw(child.parse()?))
    }

    /// How it ended by itself.
    pub fn ended(&mut self) -> Result<Finished> {
        let running = self.running.take().context("the agent does not run")?;
        running.wait(LIMIT)
    }

    /// Where its configuration is.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// Writes this into its file.
    pub fn rewrite_as(&self, text: &str) -> Result<()> {
        let new = self.config_file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.config_file).context("replacing the configuration")
    }

    /// As [`Self::rewrite`]; tells it by SIGHUP, and waits until that is in force.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut AgentConfig)) -> Result<()> {
        let before = self.generation()?;
        self.rewrite(change)?;
        self.signal(Signal::SIGHUP)?;
        self.wait_for_generation(before + 1)
    }

    /// Waits until that many configurations were in force.
    pub fn wait_for_generation(&self, nth: u64) -> Result<()> {
        self.wait_for("the new configuration is not in force", |agent| {
            Ok(agent.generation()? >= nth)
        })
    }

    /// Which configuration of its life is in force.
    pub fn generation(&self) -> Result<u64> {
        let (_, ready) = self.ready()?;
        ready["configuration"]["generation"]
            .as_u64()
            .with_context(|| format!("no generation in {ready}"))
    }

    /// Lets another process take over from it, which it gives this long for its connections; the old
    /// one, which drains.
    pub fn take_over(&mut self, drain: Duration) -> Result<Running> {
        let heir = self.start_heir(drain)?;
        Self::wait_until_heir_serves(&heir)?;
        self.running.replace(heir).context("the agent does not run")
    }

    /// Waits until a process has taken over.
    pub fn wait_until_heir_serves(heir: &Running) -> Result<()> {
        let said = heir.stderr_output().wait_for(LIMIT, |line| {
            line.contains("taken over from the agent that ran")
                .then_some(())
        });
        said.with_context(|| format!("it has not taken over\n{}", tail(&heir.stderr())))
    }

    /// Starts a process that tries to take over from it.
    pub fn start_heir(&self, drain: Duration) -> Result<Running> {
        self.start_heir_with(drain, &[])
    }

    /// The same with other options than its own.
    pub fn start_heir_with(&self, drain: Duration, options: &[&str]) -> Result<Running> {
        let drain = format!("--take-over={}", drain.as_secs());
        let command = match options {
            [] => self.command()?,
            options => self.command_without_workers()?.args(options),
        };
        command.arg(drain).spawn()
    }

    /// This process, which has taken over, is the agent from now on.
    pub fn replace(&mut self, heir: Running) {
        self.running = Some(heir);
    }

    /// Whether it has handed over, and drains or has ended.
    pub fn has_left(&self) -> bool {
        self.log().contains("another agent serves")
    }

    /// Sends it a signal, SIGSTOP say.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    /// Runs `sealwire-agent --detach` for this instance.
    pub fn detach(&self) -> Result<Finished> {
        self.command()?.arg("--detach").run(LIMIT)
    }

    /// Takes its pins away, as a reboot does, and with them all that was attached.
    pub fn unpin(&self) -> Result<()> {
        let pins = Path::new("/sys/fs/bpf/sealwire").join(&self.instance);
        fs::remove_dir_all(&pins).with_context(|| format!("removing {}", pins.display()))
    }

    /// From now on its processes are of this program.
    pub fn change_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// From now on its processes are started in another cgroup, as another unit's are.
    pub fn change_cgroup(&mut self, bed: &Testbed) -> Result<()> {
        let name = self.cgroup.file_name().unwrap_or_default();
        self.cgroup = bed.cgroup(&format!("{}-anew", name.to_string_lossy()))?;
        Ok(())
    }

    /// Removes its cgroup and makes it anew, as systemd does with that of a unit that has no process.
    pub fn renew_cgroup(&self) -> Result<()> {
        let deadline = Instant::now() + self.config.patience;
        // Its loader, which dies with it, may not have left yet.
        while let Err(error) = fs::remove_dir(&self.cgroup) {
            let is_busy = error.kind() == ErrorKind::ResourceBusy;
            ensure!(is_busy && Instant::now() < deadline, "{error}");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(fs::create_dir(&self.cgroup)?)
    }

    /// Starts a second process with the same configuration and instance.
    pub fn start_another(&self) -> Result<Running> {
        self.command()?.spawn()
    }

    /// What it has logged since it was started last.
    pub fn log(&self) -> String {
        self.running
            .as_ref()
            .map(Running::stderr)
            .unwrap_or_default()
    }

    /// Where it pinned the eBPF map of this name.
    pub fn pinned_map(&self, name: &str) -> Result<PathBuf> {
        let pins = Path::new("/sys/fs/bpf/sealwire").join(&self.instance);
        let directories = fs::read_dir(&pins).with_context(|| format!("{}", pins.display()))?;
        directories
            .flatten()
            .map(|directory| directory.path().join(name))
            .find(|map| map.exists())
            .with_context(|| format!("no map {name} is pinned in {}", pins.display()))
    }

    /// How many files it has open, without the few pipes that each worker keeps for splicing.
    pub fn open_files(&self) -> Result<usize> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.running()?.pid()))?;
        let is_pipe = |file: &fs::DirEntry| {
            fs::read_link(file.path()).is_ok_and(|it| it.to_string_lossy().starts_with("pipe:"))
        };
        Ok(files.flatten().filter(|file| !is_pipe(file)).count())
    }

    /// The memory that is its own, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running()?.pid()))?;
        let kibibytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .context("no RssAnon in /proc/<pid>/status")?
            .parse()?;
        Ok(kibibytes << 10)
    }

    fn get(&self, path: &str) -> Result<Answer> {
        Answer::fetch(self.admin_port(), path)
    }

    /// Waits for a log line of this target that `matches`; its fields.
    pub fn log_line(&self, target: &str, mut matches: impl FnMut(&Value) -> bool) -> Result<Value> {
        let found = self
            .running()?
            .stderr_output()
            .wait_for(LIMIT, |line| fields(line, target).filter(&mut matches));
        found.with_context(|| format!("no such {target} line in\n{}", tail(&self.log())))
    }

    fn running(&self) -> Result<&Running> {
        self.running.as_ref().context("the agent does not run")
    }

    fn command(&self) -> Result<HostCommand> {
        let command = self.command_without_workers()?;
        Ok(match self.config.workers {
            Some(workers) => command.args(["--workers", &workers.to_string()]),
            None => command,
        })
    }

    fn command_without_workers(&self) -> Result<HostCommand> {
        let mut command = command_of(self.program.clone(), Some(&self.cgroup))?;
        if let Some(clock) = &self.config.clock {
            command = clock.give(command);
        }
        for (name, value) in &self.config.variables {
            command = command.env(name, value);
        }
        if let Some(log) = &self.config.log {
            command = command.with_stderr(log.try_clone()?.into());
        }
        Ok(command
            .arg("--config")
            .arg(&self.config_file)
            .args(["--instance", &self.instance]))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let log = self.log();
        let died = self
            .running
            .as_mut()
            .and_then(|running| running.try_wait().ok().flatten());
        // Shown only of a test that fails.
        eprintln!("the log of {}:\n{}", self.instance, tail(&log));
        eprintln!("what went wrong in it:\n{}", tail(&complaints(&log)));
        // An agent that is killed can't remove it.
        let _ = fs::remove_file(format!("/run/sealwire/{}.lock", self.instance));
        if !thread::panicking() {
            assert!(died.is_none(), "the agent died by itself, {died:?}");
        }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent {} {:?}", self.instance, self.running)
    }
}

/// `sealwire-agent` in the root namespace with no arguments yet, for those that end by themselves.
pub fn command(cgroup: Option<&Path>) -> Result<HostCommand> {
    command_of(binary(), cgroup)
}

fn command_of(program: PathBuf, cgroup: Option<&Path>) -> Result<HostCommand> {
    ensure!(
        program.is_file(),
        "{} does not exist: cargo build --release, or set SEALWIRE_BIN_DIR",
        program.display()
    );
    let netns = PathBuf::from("/proc/self/ns/net");
    Ok(HostCommand::new(program, netns, cgroup.map(Path::to_owned)))
}

/// A node agent's configuration file.
#[derive(Debug, Clone, Serialize)]
pub struct AgentConfig {
    admin_port: u16,
    log_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_acceleration: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator: Option<CoordinatorConfig>,
    workload: Vec<WorkloadConfig>,
    #[serde(skip)]
    workers: Option<u16>,
    #[serde(skip)]
    clock: Option<Clock>,
    #[serde(skip)]
    variables: Vec<(String, String)>,
    #[serde(skip)]
    manager: Option<ServiceManager>,
    #[serde(skip)]
    log: Option<Arc<File>>,
    #[serde(skip)]
    patience: Duration,
}

impl AgentConfig {
    /// A configuration with a free admin port.
    pub fn new(workloads: Vec<WorkloadConfig>) -> Result<Self> {
        Ok(Self {
            admin_port: free_port()?,
            log_format: "json",
            local_acceleration: None,
            coordinator: None,
            workload: workloads,
            workers: None,
            clock: None,
            variables: Vec::new(),
            manager: None,
            log: None,
            patience: LIMIT,
        })
    }

    /// The loopback port on which its agent answers.
    pub(crate) fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// Its workloads, to be changed.
    pub fn workloads(&mut self) -> &mut Vec<WorkloadConfig> {
        &mut self.workload
    }

    /// With certificates from a Coordinator.
    #[must_use]
    pub fn enrolled(self, coordinator: CoordinatorConfig) -> Self {
        Self {
            coordinator: Some(coordinator),
            ..self
        }
    }

    /// With `local_acceleration = "sk-msg"`.
    #[must_use]
    pub fn with_local_acceleration(self) -> Self {
        Self {
            local_acceleration: Some("sk-msg"),
            ..self
        }
    }

    /// With a wall clock of its own.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self {
            clock: Some(clock),
            ..self
        }
    }

    /// With a variable in the agent's environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a log that goes there, so that [`Agent::log`] has none of it.
    #[must_use]
    pub fn with_log(self, log: impl Into<OwnedFd>) -> Self {
        Self {
            log: Some(Arc::new(File::from(log.into()))),
            ..self
        }
    }

    /// With an agent that is waited for as long as this, as it has much to do.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// As a unit of this service manager.
    pub fn supervised_by(self, manager: &ServiceManager) -> Result<Self> {
        let with_socket = self.with_variable("NOTIFY_SOCKET", manager.notify_socket()?);
        Ok(Self {
            manager: Some(manager.clone()),
            ..with_socket
        })
    }

    /// With this many workers in place of one for each core.
    #[must_use]
    pub fn with_workers(self, workers: u16) -> Self {
        Self {
            workers: Some(workers),
            ..self
        }
    }
}

/// A workload of the configuration; what is empty is left to its default.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WorkloadConfig {
    /// Its name.
    pub name: String,
    /// Its cgroup2 directory.
    pub cgroup: PathBuf,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Whether other programs are in the namespace.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shares_netns: bool,
    /// The directory with its certificate; none where a Coordinator gives it one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
    /// Which of the identities that a node may ask for it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// Who may connect to it by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress_peers: Vec<String>,
    /// To whom it may connect by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress_peers: Vec<String>,
    /// `mtls`, `plaintext` or `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_default: Option<&'static str>,
    /// `mtls`, `tls` or `plaintext`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_default: Option<&'static str>,
    /// Whether peers that no list has are let through and told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// `allow` or `deny`; the default if empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub udp: &'static str,
    /// Rules by port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule>,
    /// Rules by destination.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule>,
    /// Addresses of its loopback that lead elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listener: Vec<ListenerRule>,
}

impl WorkloadConfig {
    /// The workload of a host, named as it is.
    pub fn of(host: &Host, tls_dir: &Path) -> Self {
        Self {
            tls_dir: Some(tls_dir.to_owned()),
            ..Self::without_certificate(host)
        }
    }

    /// The same, with its certificate from a Coordinator.
    pub fn without_certificate(host: &Host) -> Self {
        Self {
            name: host.name().to_owned(),
            cgroup: host.cgroup().to_owned(),
            netns: host.netns(),
            ..Self::default()
        }
    }
}

/// What happens to connections to a port.
#[derive(Debug, Clone, Serialize)]
pub struct IngressRule {
    /// The port.
    pub port: u16,
    /// `mtls`, `tls` or `plaintext`.
    pub mode: &'static str,
    /// Who may connect; anyone of the mesh if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
}

/// What happens to connections to a destination.
#[derive(Debug, Clone, Serialize)]
pub struct EgressRule {
    /// The addresses, or where those of the name must lie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// The name that they have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who must have answered there; whoever it is if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// The port; any if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `mtls`, `plaintext` or `deny`.
    pub mode: &'static str,
    /// Who may answer; anyone of the mesh if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
}

impl EgressRule {
    /// For these addresses.
    pub fn to(cidr: impl Into<String>, mode: &'static str) -> Self {
        Self {
            cidr: Some(cidr.into()),
            ..Self::of(mode)
        }
    }

    /// For those of a name.
    pub fn to_name(name: &str, mode: &'static str) -> Self {
        Self {
            name: Some(name.to_owned()),
            ..Self::of(mode)
        }
    }

    /// For a workload, wherever it answers.
    pub fn to_workload(workload: &str, mode: &'static str) -> Self {
        Self {
            workload: Some(workload.to_owned()),
            ..Self::of(mode)
        }
    }

    fn of(mode: &'static str) -> Self {
        Self {
            cidr: None,
            name: None,
            workload: None,
            port: None,
            mode,
            peers: Vec::new(),
        }
    }

    /// The same, as far as the addresses lie in this network.
    #[must_use]
    pub fn within(self, cidr: impl Into<String>) -> Self {
        Self {
            cidr: Some(cidr.into()),
            ..self
        }
    }

    /// The same, at this port.
    #[must_use]
    pub fn at(self, port: u16) -> Self {
        Self {
            port: Some(port),
            ..self
        }
    }
}

/// An address of the loopback, and where it leads.
#[derive(Debug, Clone, Serialize)]
pub struct ListenerRule {
    /// What the program dials.
    pub listen: SocketAddrV4,
    /// Host and port.
    pub remote: String,
}

/// The fields of a log line, if it is of this target.
fn fields(line: &str, target: &str) -> Option<Value> {
    let mut line: Value = serde_json::from_str(line).ok()?;
    let is_target = line["target"] == target;
    is_target.then(|| {
        if line["fields"].is_object() {
            line["fields"].take()
        } else {
            line
        }
    })
}

/// The lines of a log that are not about connections that came to an orderly end.
fn complaints(log: &str) -> String {
    let is_complaint = |line: &&str| {
        fields(line, "access").map_or(!line.contains("\"INFO\""), |line| {
            line["close"] != "orderly"
        })
    };
    log.lines()
        .filter(is_complaint)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The agent's binary.
pub fn binary() -> PathBuf {
    binary_of("sealwire-agent")
}

/// A binary of ours: in the directory that `SEALWIRE_BIN_DIR` names, or in `target/release`.
pub fn binary_of(name: &str) -> PathBuf {
    let release = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release");
    env::var_os("SEALWIRE_BIN_DIR")
        .map_or_else(release, PathBuf::from)
        .join(name)
}

/// A port of the loopback that nobody has. None that the kernel may give to a connection before it is
/// listened on (`ip_local_port_range`).
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() * 32 % 20_000)?;
    loop {
        let port = 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
}

const LIMIT: Duration = Duration::from_secs(10);
