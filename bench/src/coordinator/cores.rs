//! The Coordinator has a core to itself, and what it is measured with has the others.

use std::process::{Child, Command};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Who runs where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    coordinator: CpuSet,
    harness: CpuSet,
    /// How many the harness has.
    pub(crate) of_harness: usize,
    /// Whether there was but one for both.
    pub(crate) are_shared: bool,
}

impl Cores {
    /// Divides those that this process may use, and takes this thread, and the threads that it
    /// starts from now on, to the harness's.
    pub(crate) fn divide() -> Result<Self> {
        let all = sched_getaffinity(THIS_THREAD).context("reading the CPU affinity")?;
        let cores: Vec<usize> = (0..CpuSet::count())
            .filter(|&core| all.is_set(core).unwrap_or(false))
            .collect();
        let (first, others) = cores.split_first().context("no core may be used")?;
        let are_shared = others.is_empty();
        let others = if are_shared { cores.as_slice() } else { others };
        let cores = Self {
            coordinator: set_of(&[*first])?,
            harness: set_of(others)?,
            of_harness: others.len(),
            are_shared,
        };
        cores.enter_harness()?;
        Ok(cores)
    }

    /// Starts a process on the Coordinator's core.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Child> {
        // A process inherits the affinity of the thread that starts it.
        sched_setaffinity(THIS_THREAD, &self.coordinator).context("setting the CPU affinity")?;
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()));
        self.enter_harness()?;
        child
    }

    fn enter_harness(&self) -> Result<()> {
        sched_setaffinity(THIS_THREAD, &self.harness).context("setting the CPU affinity")
    }
}

fn set_of(cores: &[usize]) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core)?;
    }
    Ok(set)
}

const THIS_THREAD: Pid = Pid::from_raw(0);
