//! A cgroup2 directory whose life is that of its guard, with every process in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A cgroup made by the testbed. Dropping it kills what runs in it and in its children.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path)
            .with_context(|| format!("could not make the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!(
                "could not remove the cgroup {}: {error}",
                self.path.display()
            );
        }
    }
}

/// Where cgroup2 is mounted, in a hybrid set-up as well as in a unified one.
pub(crate) fn mount_point() -> Option<PathBuf> {
    fs::read_to_string("/proc/self/mountinfo")
        .ok()?
        .lines()
        .find_map(|line| {
            // "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw"
            let (mount, filesystem) = line.split_once(" - ")?;
            let is_cgroup2 = filesystem.split(' ').next() == Some("cgroup2");
            is_cgroup2.then(|| PathBuf::from(mount.split(' ').nth(4).unwrap_or_default()))
        })
}

/// The cgroup's `cgroup.procs`: who writes "0" to it moves into the cgroup.
pub(crate) fn procs(path: &Path) -> Result<OwnedFd> {
    let procs = path.join("cgroup.procs");
    let file = File::options()
        .write(true)
        .open(&procs)
        .with_context(|| format!("could not open {}", procs.display()))?;
    Ok(file.into())
}

/// Kills every process of a cgroup and its children, then removes them.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + EMPTY_DEADLINE;
    loop {
        kill_all(path)?;
        match remove_tree(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                if Instant::now() > deadline {
                    return Err(error);
                }
                thread::sleep(Duration::from_millis(2));
            }
            done => return done,
        }
    }
}

fn kill_all(path: &Path) -> io::Result<()> {
    for child in children(path)? {
        kill_all(&child)?;
    }
    for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
        if let Ok(pid) = pid.parse() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // it may be gone by now
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for child in children(path)? {
        remove_tree(&child)?;
    }
    fs::remove_dir(path)
}

fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

const EMPTY_DEADLINE: Duration = Duration::from_secs(5);
