//! The agent beside the program: found, started, started again, ended.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{self, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use agent_config::flags::{CoordinatorFlags, Environment};
use agent_config::policy::{LONGEST_NAME, WorkloadName};
use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::Place;
use super::program::exit_code;
use super::signals::Signals;
use super::{AgentOptions, enter};
use crate::failure::Failure;

/// How the agent is started.
#[derive(Debug)]
pub(super) struct AgentCommand {
    binary: PathBuf,
    instance: String,
    options: Vec<String>,
}

impl AgentCommand {
    /// Looks for the agent beside this program, then where a shell would.
    pub(super) fn find(name: &WorkloadName, options: &AgentOptions) -> Result<Self, Failure> {
        // Not the name alone: an agent that runs without us may have it.
        let instance = format!("run-{name}");
        if instance.len() > LONGEST_NAME {
            return Err(Failure::usage(format!(
                "--name {name} is too long; use at most {} characters",
                LONGEST_NAME - "run-".len()
            )));
        }
        let beside = env::current_exe()
            .ok()
            .map(|path| path.with_file_name(BINARY));
        let search = env::var_os("PATH").unwrap_or_default();
        let searched = env::split_paths(&search).map(|directory| directory.join(BINARY));
        let binary = beside.into_iter().chain(searched).find(|it| it.is_file());
        let binary = binary.ok_or_else(|| {
            anyhow!("there is no {BINARY}, neither beside this program nor in PATH: install it")
        })?;
        let mut all = vec!["--name".to_owned(), name.to_string()];
        all.extend(options.as_arguments());
        Ok(Self {
            binary,
            instance,
            options: all,
        })
    }

    fn start(&self, place: &Place) -> anyhow::Result<Child> {
        enter::command(&place.agent, &self.binary)
            .arg("--cgroup")
            .arg(place.program.path())
            .arg("--shares-netns")
            .args(["--instance", &self.instance])
            .args(&self.options)
            .env("NOTIFY_SOCKET", &place.notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // What the terminal says is for the program.
            .process_group(0)
            .spawn()
            .context("starting the agent")
    }

    /// Takes away what the agent has left pinned, if it has.
    pub(super) fn detach(&self) -> anyhow::Result<()> {
        let status = Command::new(&self.binary)
            .args(["--instance", &self.instance, "--detach"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("running {}", self.binary.display()))?;
        if !status.success() {
            bail!(
                "what the agent has attached could not be taken away ({status}): {BINARY} --instance {} \
                 --detach",
                self.instance
            );
        }
        // What an agent leaves that is killed, and what asks it for its place.
        for kind in ["lock", "sock"] {
            let _ = fs::remove_file(format!("/run/sealwire/{}.{kind}", self.instance));
        }
        Ok(())
    }
}

/// The agent wants paths from the root on; whoever types a command is somewhere. Links stay as they are: what
/// they lead to may change.
fn from_root(path: &str) -> String {
    let absolute = path::absolute(path).ok();
    let absolute = absolute.and_then(|path| path.into_os_string().into_string().ok());
    absolute.unwrap_or_else(|| path.to_owned())
}

impl AgentOptions {
    fn as_arguments(&self) -> Vec<String> {
        let Self {
            config,
            tls_dir,
            admin_port,
            log_format,
            log_level,
            offload,
            workers,
            coordinator:
                CoordinatorFlags {
                    addresses,
                    manifest,
                    state_dir,
                    vek,
                    crl,
                    collateral,
                    allow_simulated_tee,
                    simulated_tee,
                },
        } = self;
        let [tls_dir, state_dir] = [tls_dir, state_dir].map(|path| path.as_deref().map(from_root));
        let addresses = (!addresses.is_empty()).then(|| addresses.join(","));
        let given = |name| Environment::of_process().value(name).is_some();
        let says_nothing =
            config.is_none() && !given("SEALWIRE_CONFIG") && !given("SEALWIRE_LOG_LEVEL");
        // The terminal is the program's.
        let quiet = says_nothing.then(|| "warn".to_owned());
        let log_level = log_level.clone().or(quiet);
        let options = [
            ("--config", config),
            ("--tls-dir", &tls_dir),
            ("--admin-port", admin_port),
            ("--log-format", log_format),
            ("--log-level", &log_level),
            ("--offload", offload),
            ("--workers", workers),
            ("--coordinator", &addresses),
            ("--coordinator-manifest", manifest),
            ("--state-dir", &state_dir),
            ("--vek", vek),
            ("--crl", crl),
            ("--collateral", collateral),
            ("--simulated-tee", simulated_tee),
        ];
        let mut arguments: Vec<_> = options
            .into_iter()
            // As one word: a value may begin with a dash.
            .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
            .collect();
        arguments.extend(allow_simulated_tee.then(|| "--allow-simulated-tee".to_owned()));
        arguments
    }
}

/// An agent that has been ready once.
#[derive(Debug)]
pub(super) struct Agent<'a> {
    command: &'a AgentCommand,
    place: &'a Place,
    notices: UnixDatagram,
    state: State,
    /// How long it rests when it ends the next time.
    pause: Duration,
}

#[derive(Debug)]
enum State {
    Starting(Child),
    Serving(Child),
    /// It has ended, and is started again at this time.
    Resting(Instant),
}

impl<'a> Agent<'a> {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// Where it ends before that, with its exit code, or a signal comes that is to end things.
    pub(super) fn start(
        command: &'a AgentCommand,
        place: &'a Place,
        signals: &Signals,
    ) -> Result<Self, Failure> {
        let notices = UnixDatagram::bind(&place.notify)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .with_context(|| format!("listening at {}", place.notify.display()))?;
        let mut child = command.start(place)?;
        loop {
            if says_ready(&notices)? {
                return Ok(Self {
                    command,
                    place,
                    notices,
                    state: State::Serving(child),
                    pause: FIRST_PAUSE,
                });
            }
            if let Some(status) = child.try_wait()? {
                return Err(Failure::NotRun {
                    error: anyhow!(
                        "the agent did not start ({status}); the program was not started"
                    ),
                    code: exit_code(status).max(1),
                });
            }
            if let Some(signal) = signals.wants_end()? {
                end(child, signals)?;
                return Err(Failure::Ended(128 + signal as u8));
            }
            signals.wait(Some(notices.as_fd()), None)?;
        }
    }

    /// What becomes readable when it says something.
    pub(super) fn notices(&self) -> BorrowedFd<'_> {
        self.notices.as_fd()
    }

    /// Starts it again where it has ended; how long that may wait, if it has to.
    pub(super) fn look_after(&mut self) -> anyhow::Result<Option<Duration>> {
        if says_ready(&self.notices)? {
            self.state = match std::mem::replace(&mut self.state, State::Resting(Instant::now())) {
                State::Starting(child) | State::Serving(child) => {
                    self.pause = FIRST_PAUSE;
                    State::Serving(child)
                }
                resting @ State::Resting(_) => resting,
            };
        }
        match &mut self.state {
            State::Starting(child) | State::Serving(child) => {
                if let Some(status) = child.try_wait()? {
                    eprintln!(
                        "sealwire: the agent has ended ({status}); new connections are refused until it is \
                         started again"
                    );
                    self.state = State::Resting(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
            State::Resting(until) if *until <= Instant::now() => {
                self.state = State::Starting(self.command.start(self.place)?);
            }
            State::Resting(_) => {}
        }
        Ok(match &self.state {
            State::Resting(until) => Some(until.saturating_duration_since(Instant::now())),
            State::Starting(_) | State::Serving(_) => None,
        })
    }

    /// Ends it, which nobody needs any more.
    pub(super) fn end(self, signals: &Signals) -> anyhow::Result<()> {
        match self.state {
            State::Starting(child) | State::Serving(child) => end(child, signals),
            State::Resting(_) => Ok(()),
        }
    }
}

/// By SIGTERM; by SIGKILL where that takes too long, or another signal comes.
fn end(mut child: Child, signals: &Signals) -> anyhow::Result<()> {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    let deadline = Instant::now() + DRAIN;
    while child.try_wait()?.is_none() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || signals.wants_end()?.is_some() {
            child.kill()?;
            child.wait()?;
            return Ok(());
        }
        signals.wait(None, Some(left))?;
    }
    Ok(())
}

/// Whether the agent has said that it serves, in the manner of `sd_notify(3)`.
fn says_ready(notices: &UnixDatagram) -> anyhow::Result<bool> {
    let mut buffer = [0; 4096];
    let mut is_ready = false;
    loop {
        match notices.recv(&mut buffer) {
            Ok(length) => {
                let mut lines = buffer[..length].split(|byte| *byte == b'\n');
                is_ready |= lines.any(|line| line == b"READY=1");
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(is_ready),
            Err(error) => return Err(error).context("hearing the agent"),
        }
    }
}

const BINARY: &str = "sealwire-agent";

/// Longer than the agent drains its connections.
const DRAIN: Duration = Duration::from_secs(15);

/// One that dies at once does so every few seconds, not all the time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_from_the_root_on_wherever_it_was_typed() {
        let here = env::current_dir().unwrap();
        let here = here.to_str().unwrap();
        assert_eq!(from_root("tls/web"), format!("{here}/tls/web"));
        assert_eq!(from_root("./tls"), format!("{here}/tls"));
        assert_eq!(from_root("/tls"), "/tls");
        assert_eq!(from_root(""), "");
    }
}
