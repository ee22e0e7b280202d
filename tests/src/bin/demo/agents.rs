//! The agents: one for each host, each on a (simulated) TEE of its own.
//!
//! Unlike [`testbed::Agent`] it may end by itself, and then says why: on some machines the agent
//! can't start, and whoever tries the demonstration there wants its reason, not a panic.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use nix::unistd::Pid;
use serde_json::Value;
use testbed::admin::Answer;
use testbed::{AgentConfig, Coordinator, Host, Running, WorkloadConfig, agent};

use crate::abort::Abort;
use crate::stage::Stage;
use crate::traces;

/// Both agents, running or killed. Dropping this kills them.
pub(crate) struct Agents([OneAgent; 2]);

/// An agent, running or killed.
struct OneAgent {
    config: PathBuf,
    cgroup: PathBuf,
    instance: String,
    admin_port: u16,
    running: Option<Running>,
}

impl Agents {
    /// Starts one for the client and one for the server, and waits until both have enrolled.
    pub(crate) fn start(stage: &Stage, coordinator: &Coordinator) -> Result<Self> {
        let start = |host| OneAgent::start(stage, coordinator, host);
        Ok(Self([start(stage.client())?, start(stage.server())?]))
    }

    /// Starts them, again if they were killed, and waits until both are ready.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(OneAgent::restart)
    }

    /// Kills them with SIGKILL, which they can't see coming.
    pub(crate) fn kill(&mut self) -> Result<()> {
        for agent in &mut self.0 {
            let running = agent.running.take();
            running.map(drop).context("the agent does not run")?;
        }
        Ok(())
    }

    /// The connections that they have at present.
    pub(crate) fn connections(&self) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for agent in &self.0 {
            match Answer::fetch(agent.admin_port, "/connections")?.json()? {
                Value::Array(connections) => all.extend(connections),
                other => bail!("/connections is no array: {other}"),
            }
        }
        Ok(all)
    }

    /// Waits for the line of a workload's closed connection.
    pub(crate) fn access(&self, workload: &str, from: SocketAddr) -> Result<Value> {
        self.line("access", from, |line| line["workload"] == workload)
    }

    /// Waits for the line of a refused connection.
    pub(crate) fn refused(&self, from: SocketAddr) -> Result<Value> {
        self.line("refused", from, |_| true)
    }

    /// The error, with what the agent refused last, which may be why.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let refused = self
            .log()
            .into_iter()
            .rfind(|line| line["target"] == "refused");
        match refused {
            Some(line) => error.context(format!(
                "the agent refused a connection from {} to {}, {}: {}",
                line["from"], line["to"], line["reason"], line["detail"],
            )),
            None => error,
        }
    }

    /// What they leave behind if they are killed.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.0
            .iter()
            .flat_map(|it| [traces::pins(&it.instance), traces::lock(&it.instance)])
    }

    /// The processes, if they run.
    pub(crate) fn pids(&self) -> impl Iterator<Item = Pid> {
        let running = self.0.iter().filter_map(|it| it.running.as_ref());
        running.map(Running::pid)
    }

    fn line(
        &self,
        target: &str,
        from: SocketAddr,
        matches: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let from = from.to_string();
        let deadline = Instant::now() + LOG_LIMIT;
        loop {
            let found = self
                .log()
                .into_iter()
                .find(|line| line["target"] == target && line["from"] == *from && matches(line));
            if let Some(line) = found {
                return Ok(line);
            }
            ensure!(
                Instant::now() < deadline,
                "the agent wrote no {target} line about {from}"
            );
            thread::sleep(POLL);
        }
    }

    /// The lines of JSON that they have written since they were started.
    fn log(&self) -> Vec<Value> {
        let running = self.0.iter().filter_map(|it| it.running.as_ref());
        running
            .flat_map(|running| {
                let log = running.stderr();
                let lines: Vec<Value> = log
                    .lines()
                    .filter_map(|line| serde_json::from_str(line).ok())
                    .collect();
                lines
            })
            .collect()
    }
}

impl OneAgent {
    fn start(stage: &Stage, coordinator: &Coordinator, host: &Host) -> Result<Self> {
        let workload = WorkloadConfig::without_certificate(host);
        let config =
            AgentConfig::new(vec![workload])?.enrolled(coordinator.config_for(host.name()));
        let file = stage
            .directory()
            .join(format!("{}-agent.toml", host.name()));
        fs::write(&file, toml::to_string(&config)?)?;
        // Of its own, as its sockets must not be taken for those of a workload.
        let cgroup = stage.cgroup()?.join(format!("{}-agent", host.name()));
        fs::create_dir(&cgroup)?;
        let mut agent = Self {
            config: file,
            cgroup,
            instance: format!("{}-{}", stage.agent_instance(), host.name()),
            admin_port: agent::free_port()?,
            running: None,
        };
        agent.restart()?;
        Ok(agent)
    }

    fn restart(&mut self) -> Result<()> {
        self.running = None;
        let running = agent::command(Some(&self.cgroup))?
            .arg("--config")
            .arg(&self.config)
            .args(["--instance", &self.instance])
            .args(["--admin-port", &self.admin_port.to_string()])
            .spawn()?;
        let running = self.running.insert(running);
        wait_until_ready(running, self.admin_port)
    }
}

impl Drop for OneAgent {
    fn drop(&mut self) {
        self.running = None;
        let _ = fs::remove_file(traces::lock(&self.instance)); // there is none before it starts
    }
}

fn wait_until_ready(running: &mut Running, admin_port: u16) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let answer = Answer::fetch(admin_port, "/ready");
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        if let Some(status) = running.try_wait()? {
            let said = last_line(&running.stderr());
            return Err(match status.code() {
                Some(PLATFORM_LACKS) => Abort::PlatformLacks(said).into(),
                _ => anyhow!("the agent ended with {status}: {said}"),
            });
        }
        ensure!(
            Instant::now() < deadline,
            "the agent is not ready: {}",
            answer.map_or_else(|error| error.to_string(), |answer| answer.body)
        );
        thread::sleep(POLL);
    }
}

fn last_line(text: &str) -> String {
    text.lines().next_back().unwrap_or("no word").to_owned()
}

/// The agent's exit code where the machine lacks something.
const PLATFORM_LACKS: i32 = 3;
const START_LIMIT: Duration = Duration::from_secs(15);
const LOG_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);
