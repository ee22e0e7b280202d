//! The agent: one process for both workloads, as on a node.
//!
//! Unlike [`testbed::Agent`] it may end by itself, and then says why: on some machines the agent
//! can't start, and whoever tries the demonstration there wants its reason, not a panic.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use nix::unistd::Pid;
use serde_json::Value;
use testbed::admin::Answer;
use testbed::{AgentConfig, Running, WorkloadConfig, agent};

use crate::abort::Abort;
use crate::stage::Stage;
use crate::traces;

/// The agent, running or killed. Dropping it kills it.
pub(crate) struct NodeAgent {
    config: PathBuf,
    cgroup: PathBuf,
    instance: String,
    admin_port: u16,
    running: Option<Running>,
}

impl NodeAgent {
    /// Starts it for the client and the server, and waits until both are ready.
    pub(crate) fn start(stage: &Stage) -> Result<Self> {
        let workloads = [
            WorkloadConfig::of(stage.client(), stage.client_certificate()),
            WorkloadConfig::of(stage.server(), stage.server_certificate()),
        ];
        let config = stage.directory().join("agent.toml");
        fs::write(
            &config,
            toml::to_string(&AgentConfig::new(workloads.into())?)?,
        )?;
        // Of its own, as its sockets must not be taken for those of a workload.
        let cgroup = stage.cgroup()?.join("agent");
        fs::create_dir(&cgroup)?;
        let mut agent = Self {
            config,
            cgroup,
            instance: stage.agent_instance(),
            admin_port: free_port()?,
            running: None,
        };
        agent.restart()?;
        Ok(agent)
    }

    /// Starts it, again if it was killed, and waits until both workloads are ready.
    pub(crate) fn restart(&mut self) -> Result<()> {
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

    /// Kills it with SIGKILL, which it can't see coming.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let running = self.running.take();
        running.map(drop).context("the agent does not run")
    }

    /// The connections that it has at present.
    pub(crate) fn connections(&self) -> Result<Vec<Value>> {
        match Answer::fetch(self.admin_port, "/connections")?.json()? {
            Value::Array(connections) => Ok(connections),
            other => bail!("/connections is no array: {other}"),
        }
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

    /// What it leaves behind if it is killed.
    pub(crate) fn files(&self) -> [PathBuf; 2] {
        [traces::pins(&self.instance), traces::lock(&self.instance)]
    }

    /// The process, if it runs.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.running.as_ref().map(Running::pid)
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

    /// The lines of JSON that it has written since it was started.
    fn log(&self) -> Vec<Value> {
        let log = self.running.as_ref().map(Running::stderr);
        log.unwrap_or_default()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

impl Drop for NodeAgent {
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

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// The agent's exit code where the machine lacks something.
const PLATFORM_LACKS: i32 = 3;
const START_LIMIT: Duration = Duration::from_secs(15);
const LOG_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);
