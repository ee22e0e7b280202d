//! A cgroup of ours.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A cgroup2 directory.
#[derive(Debug)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes it, unless it is there.
    pub(super) fn make(path: PathBuf) -> anyhow::Result<Self> {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("making the cgroup {}", path.display()))
            }
            _ => Ok(Self(path)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether any process is in it or below.
    pub(super) fn is_inhabited(&self) -> anyhow::Result<bool> {
        let events = self.0.join("cgroup.events");
        let text = read(&events)?;
        match text
            .lines()
            .find_map(|line| line.strip_prefix("populated "))
        {
            Some(populated) => Ok(populated != "0"),
            None => bail!("{} does not say whether it is populated", events.display()),
        }
    }

    /// Sends a signal to every process that is in it or below. One that is made meanwhile may miss it.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        for cgroup in self.subtree()? {
            for pid in read(&cgroup.join("cgroup.procs"))?.lines() {
                // What has just ended hears nothing.
                let _ = kill(Pid::from_raw(pid.parse()?), signal);
            }
        }
        Ok(())
    }

    /// Kills all that is in it or below, also what is made meanwhile.
    ///
    /// Minimum kernel version: 5.14 (`cgroup.kill`).
    pub(super) fn kill(&self) -> anyhow::Result<()> {
        let file = self.0.join("cgroup.kill");
        fs::write(&file, "1").with_context(|| format!("writing {}", file.display()))
    }

    /// Removes it and what is below; nobody may be in it.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        for cgroup in self.subtree()?.iter().rev() {
            match fs::remove_dir(cgroup) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("removing the cgroup {}", cgroup.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Itself and all below, each after the one that it is in.
    fn subtree(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut all = vec![self.0.clone()];
        let mut next = 0;
        while let Some(cgroup) = all.get(next).cloned() {
            next += 1;
            let entries = match fs::read_dir(&cgroup) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries.with_context(|| format!("reading {}", cgroup.display()))?,
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    all.push(entry.path());
                }
            }
        }
        Ok(all)
    }
}

/// Where cgroup2 is mounted, in a hybrid set-up as well as in a unified one.
pub(super) fn mount_point() -> anyhow::Result<PathBuf> {
    let path = "/proc/self/mountinfo";
    let mounts = read(Path::new(path))?;
    mount_point_in(&mounts).context(
        "no cgroup2 file system is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, or boot with \
         systemd.unified_cgroup_hierarchy=1",
    )
}

fn mount_point_in(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_cgroup2 = file_system.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

fn read(path: &Path) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        // A cgroup may be removed by whoever runs in it.
        Err(error) if is_gone(&error) => Ok(String::new()),
        text => text.with_context(|| format!("reading {}", path.display())),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_older_ones() {
        let mounts = "\
30 23 0:27 / /sys/fs/cgroup/cpu rw,relatime shared:11 - cgroup cgroup rw,cpu
31 23 0:28 / /sys/fs/cgroup/unified rw,relatime shared:12 - cgroup2 cgroup2 rw";
        let found = mount_point_in(mounts);
        assert_eq!(found, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(
            mount_point_in("30 23 0:27 / /sys rw - sysfs sysfs rw"),
            None
        );
    }
}
