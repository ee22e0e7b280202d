//! The files of one run of a machine, and what stays of them.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use super::initramfs::Initramfs;
use crate::{process as other, workspace};

/// A directory that goes when the run is over.
#[derive(Debug)]
pub(super) struct Run {
    directory: PathBuf,
    release: String,
}

impl Run {
    pub(super) fn start(release: &str) -> Result<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let directory = place().join(format!("{PREFIX}{}-{number}", process::id()));
        fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        Ok(Self {
            directory,
            release: release.to_owned(),
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Makes the file `initramfs` of two archives, which the kernel unpacks one after the other: the
    /// first is kept for other runs, the second is this one's own.
    pub(super) fn pack(&self, files: &Initramfs, own: &Initramfs) -> Result<()> {
        let kept = place().join("initramfs");
        fs::create_dir_all(&kept).with_context(|| format!("making {}", kept.display()))?;
        let first = kept.join(files.key()?);
        if !first.exists() {
            let part = self.path("files");
            files.write(&self.path("tree"), &part)?;
            fs::rename(&part, &first).with_context(|| format!("making {}", first.display()))?;
        }
        let second = self.path("own");
        own.write(&self.path("tree"), &second)?;
        let path = self.path("initramfs");
        concatenate(&[&first, &second], &path)
            .with_context(|| format!("making {}", path.display()))?;
        // So that the oldest are those that nobody needs.
        let _ = File::open(&first).and_then(|file| file.set_modified(SystemTime::now()));
        forget_all_but(KEPT, &kept);
        Ok(())
    }

    /// Keeps the kernel's log, or what the console shows of it, where the kernel's last run is kept.
    pub(super) fn keep_log(&self) {
        let last = self.last();
        let source = ["log", "console"]
            .map(|name| self.path(name))
            .into_iter()
            .find(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0));
        let Some(source) = source else { return };
        let kept = fs::create_dir_all(&last)
            .and_then(|()| fs::copy(source, kernel_log(&self.release)).map(drop));
        if let Err(error) = kept {
            eprintln!("warning: keeping the kernel's log: {error}");
        }
    }

    /// Unpacks what the command left in `/out` to `directory`, or else to where the kernel's last run
    /// is kept, in place of what is there.
    pub(super) fn keep_out(&self, directory: Option<&Path>) -> Result<()> {
        if let Some(directory) = directory {
            return self.unpack(directory);
        }
        let left = self.path("left");
        self.unpack(&left)?;
        let out = self.last().join("out");
        let _ = fs::remove_dir_all(&out);
        match fs::rename(&left, &out) {
            // Another run on this kernel was faster.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            moved => moved.with_context(|| format!("making {}", out.display())),
        }
    }

    fn unpack(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        other::run(
            other::quiet_stdout("tar")
                .args(["--extract", "--no-same-owner", "--file"])
                .arg(self.path("out"))
                .arg("--directory")
                .arg(directory),
        )
        .context("unpacking what the command left in /out")
    }

    fn last(&self) -> PathBuf {
        place().join(&self.release)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Removes the directories of processes that were killed.
fn sweep() {
    for entry in fs::read_dir(place()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn concatenate(from: &[&Path], to: &Path) -> io::Result<()> {
    let mut to = File::create(to)?;
    for from in from {
        io::copy(&mut File::open(from)?, &mut to)?;
    }
    Ok(())
}

fn forget_all_but(kept: usize, directory: &Path) {
    let mut archives: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    archives.sort();
    let old = archives.len().saturating_sub(kept);
    for (_, archive) in &archives[..old] {
        let _ = fs::remove_file(archive);
    }
}

/// Where the log of a kernel's last run is kept.
pub(super) fn kernel_log(release: &str) -> PathBuf {
    place().join(release).join("kernel.log")
}

/// Git ignores it.
pub(super) fn place() -> PathBuf {
    workspace::target().join("vm")
}

const PREFIX: &str = "run-";

/// Some 15 MB each, with test programs some 150.
const KEPT: usize = 8;
