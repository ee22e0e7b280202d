//! What a name stands for on this machine while a program is run under it: a lock, cgroups, pins. Made
//! before the agent and taken away after it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_config::policy::WorkloadName;
use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use super::agent::AgentCommand;
use super::cgroup::{Cgroup, mount_point};
use super::signals::Signals;
use crate::failure::Failure;

/// The right to a name, with the cgroups of that name.
#[derive(Debug)]
pub(super) struct Place {
    /// For the program.
    pub(super) program: Cgroup,
    /// For the agent, which must not be in the other.
    pub(super) agent: Cgroup,
    /// Where the agent says that it is ready.
    pub(super) notify: PathBuf,
    both: Cgroup,
    _lock: NameLock,
}

/// The right to a name. It ends with the process, however that ends.
#[derive(Debug)]
struct NameLock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Place {
    /// Takes the name, if nobody has it, and clears away what a run that was killed has left.
    pub(super) fn claim(name: &WorkloadName, agent: &AgentCommand) -> Result<Self, Failure> {
        let cgroups = mount_point()?.join("sealwire");
        let directory = Path::new(DIRECTORY);
        fs::create_dir_all(directory).with_context(|| format!("making {DIRECTORY}"))?;
        let lock = NameLock::take(name, directory.join(format!("{name}.lock")))?;
        let ours = Cgroup::make(cgroups)?;
        let both = ours.path().join(name.as_str());
        if both.exists() {
            // Its program may live on, refused without its agent.
            eprintln!("sealwire: a run named {name} was killed; what it has left is taken away");
            take_away(&Cgroup::make(both.clone())?, agent)?;
        }
        let notify = directory.join(format!("{name}.notify"));
        // What is left of a run that was killed would be in the way.
        let _ = fs::remove_file(&notify);
        let both = Cgroup::make(both)?;
        let below = |which| Cgroup::make(both.path().join(which));
        let (program, agent) = match (below("program"), below("agent")) {
            (Ok(program), Ok(agent)) => (program, agent),
            (Err(error), _) | (_, Err(error)) => {
                both.remove()?;
                return Err(error.into());
            }
        };
        Ok(Self {
            program,
            agent,
            notify,
            both,
            _lock: lock,
        })
    }

    /// Takes everything away; who still runs is killed.
    pub(super) fn clear(self, agent: &AgentCommand) -> anyhow::Result<()> {
        take_away(&self.both, agent)?;
        let _ = fs::remove_file(&self.notify);
        // Where no other program is run.
        if let Some(ours) = self.both.path().parent() {
            let _ = fs::remove_dir(ours);
        }
        Ok(())
    }

    /// Tells every process that is left to end, and kills those that don't in time, or when another signal
    /// comes.
    pub(super) fn end_program(&self, signals: &Signals) -> anyhow::Result<()> {
        self.program.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + GRACE;
        while self.program.is_inhabited()? && Instant::now() < deadline {
            if signals.wants_end()?.is_some() {
                break;
            }
            signals.wait(None, Some(LOOK))?;
        }
        kill(&self.program)
    }
}

impl NameLock {
    fn take(name: &WorkloadName, path: PathBuf) -> Result<Self, Failure> {
        let failed = || format!("locking {}", path.display());
        loop {
            let file = File::create(&path).with_context(failed)?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Failure::Usage(anyhow!(
                        "another program runs under the name {name} ({} is locked); choose another --name, \
                         or end it first",
                        path.display()
                    )));
                }
                Err((_, errno)) => return Err(anyhow::Error::new(errno).context(failed()).into()),
            };
            // Its last holder may have removed the file after it was opened here.
            let held = file.metadata().with_context(failed)?;
            let is_there = fs::metadata(&path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino()));
            if is_there {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for NameLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Nobody is left when the pins go: without them a program would talk in clear.
fn take_away(both: &Cgroup, agent: &AgentCommand) -> anyhow::Result<()> {
    kill(both)?;
    agent.detach()?;
    both.remove()
}

fn kill(cgroup: &Cgroup) -> anyhow::Result<()> {
    let deadline = Instant::now() + KILLED;
    while cgroup.is_inhabited()? {
        cgroup.kill()?;
        if Instant::now() > deadline {
            anyhow::bail!(
                "processes in {} can't be killed; they stay refused, until another run of this name takes \
                 them away",
                cgroup.path().display()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Beside the agents' own files.
const DIRECTORY: &str = "/run/sealwire/run";

/// How long processes that the program has left may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// A killed process that is in the kernel for longer is stuck there.
const KILLED: Duration = Duration::from_secs(10);

/// How often it is looked whether all have ended: nobody tells of those that are not our children.
const LOOK: Duration = Duration::from_millis(20);
