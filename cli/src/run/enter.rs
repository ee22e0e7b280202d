//! `sealwire enter-cgroup`: moves into a cgroup and becomes a program there, so that not one instruction
//! of the program is executed outside of it. Safe code can't do this between fork and exec.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow};
use clap::Args;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

use super::cgroup::Cgroup;
use super::program::{NOT_EXECUTABLE, NOT_FOUND};
use super::signals;
use crate::failure::Failure;

/// Become a program in a cgroup; for `sealwire run`.
#[derive(Args)]
pub(crate) struct Enter {
    /// The cgroup's directory
    #[arg(long)]
    cgroup: PathBuf,

    /// Who has started this; when that ends, the program is told to end
    #[arg(long)]
    parent: i32,

    /// The program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

impl Enter {
    pub(crate) fn run(self) -> Result<String, Failure> {
        set_pdeathsig(Signal::SIGTERM).context("asking for a signal at the parent's death")?;
        if getppid() != Pid::from_raw(self.parent) {
            return Err(anyhow!("`sealwire run` has ended meanwhile").into());
        }
        let procs = self.cgroup.join("cgroup.procs");
        fs::write(&procs, "0").with_context(|| format!("entering {}", self.cgroup.display()))?;
        let (program, arguments) = self
            .program
            .split_first()
            .ok_or_else(|| Failure::usage("no program is given after --"))?;
        signals::release()?;
        let error = Command::new(program).args(arguments).exec();
        let code = match error.kind() {
            ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        };
        let error = anyhow::Error::new(error).context(format!("executing {}", program.display()));
        Err(Failure::NotRun { error, code })
    }
}

/// What becomes `program` in a cgroup; its arguments are to be added.
pub(super) fn command(cgroup: &Cgroup, program: &Path) -> Command {
    // The very file that this process runs, whatever has become of its path.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("sealwire")
        .arg("enter-cgroup")
        .arg("--cgroup")
        .arg(cgroup.path())
        .arg("--parent")
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(program);
    command
}
