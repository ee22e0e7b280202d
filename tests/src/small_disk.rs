//! A disk so small that a test can fill it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A tmpfs on a directory; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// An empty one of this many bytes on `directory`, which is made.
    pub fn mount(directory: PathBuf, bytes: u32) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let size = format!("size={bytes},mode=0700");
        mount(
            Some("sealwire-test"),
            &directory,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(size.as_str()),
        )
        .with_context(|| format!("could not mount a tmpfs on {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Leaves no space on it.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.ballast())?;
        while ballast.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
        let another = self.directory.join("another");
        let is_full = fs::write(&another, [0; 4096]).is_err();
        let _ = fs::remove_file(another); // it may be there, without contents
        ensure!(is_full, "{} is not full", self.directory.display());
        Ok(())
    }

    /// Makes space again.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whatever still has a file on it keeps it until it ends.
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
    }
}
