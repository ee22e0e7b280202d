//! The program that is run.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use anyhow::anyhow;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroup::Cgroup;
use super::enter;
use crate::failure::Failure;

/// A program that is there, with its arguments.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Looks for it where a shell would.
    pub(super) fn find(words: &[OsString]) -> Result<Self, Failure> {
        let (name, arguments) = words
            .split_first()
            .ok_or_else(|| Failure::usage("no program is given after --"))?;
        let search = env::var_os("PATH").unwrap_or_default();
        let found = if name.as_encoded_bytes().contains(&b'/') {
            vec![PathBuf::from(name)]
        } else {
            let directories = env::split_paths(&search);
            directories.map(|directory| directory.join(name)).collect()
        };
        let files: Vec<_> = found.into_iter().filter(|path| path.exists()).collect();
        match files.iter().find(|path| is_executable(path)) {
            Some(path) => Ok(Self {
                path: path.clone(),
                arguments: arguments.to_vec(),
            }),
            None => Err(not_run(name, files.first().map(PathBuf::as_path))),
        }
    }

    /// Starts it in a cgroup.
    pub(super) fn start(&self, cgroup: &Cgroup) -> anyhow::Result<Started> {
        let child = enter::command(cgroup, &self.path)
            .args(&self.arguments)
            .spawn()?;
        Ok(Started(child))
    }
}

/// The program while it runs.
#[derive(Debug)]
pub(super) struct Started(Child);

impl Started {
    /// Passes a signal on. One that has just ended hears nothing.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), signal);
    }

    /// The exit code, as a shell tells it, once it has ended.
    pub(super) fn try_wait(&mut self) -> anyhow::Result<Option<u8>> {
        Ok(self.0.try_wait()?.map(exit_code))
    }
}

/// 128 + n where signal n ended it.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    // Both are below 256 on Linux.
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// What a shell would say, and its code.
fn not_run(name: &OsStr, found: Option<&Path>) -> Failure {
    match found {
        Some(path) => Failure::NotRun {
            error: anyhow!("{} can't be executed", path.display()),
            code: NOT_EXECUTABLE,
        },
        None => Failure::NotRun {
            error: anyhow!("there is no program {}", name.display()),
            code: NOT_FOUND,
        },
    }
}

pub(super) const NOT_EXECUTABLE: u8 = 126;
pub(super) const NOT_FOUND: u8 = 127;

#[cfg(test)]
mod tests {
    use super::*;

    fn code(words: &[&str]) -> Option<u8> {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        match Program::find(&words) {
            Err(Failure::NotRun { code, .. }) => Some(code),
            _ => None,
        }
    }

    #[test]
    fn a_program_is_looked_for_as_a_shell_does() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(code(&["sh", "-c", "true"]), None);
        assert_eq!(code(&["/bin/sh"]), None);
        assert_eq!(code(&["no-such-program"]), Some(127));
        assert_eq!(code(&["/no/such/program"]), Some(127));
        assert_eq!(code(&[file.to_str().unwrap()]), Some(126));
        assert_eq!(code(&["/tmp"]), Some(126));
    }

    #[test]
    fn a_signals_number_is_added_to_128() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
    }
}
