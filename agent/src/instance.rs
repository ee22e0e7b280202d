//! Keeps two agents from serving one instance.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// The right to serve an instance. It ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    path: PathBuf,
    file: Flock<File>,
}

/// Who holds the right, as far as can be told: the file that it locks.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another agent serves the instance.
    Taken(PathBuf),
    /// The file can't be made or locked.
    Io(io::Error),
}

const DIRECTORY: &str = "/run/sealwire";

/// Where instances have their files.
pub(crate) fn directory() -> &'static Path {
    Path::new(DIRECTORY)
}

impl InstanceLock {
    /// Takes the right to serve `instance`, if nobody has it.
    pub(crate) fn take(instance: &str) -> Result<Self, LockError> {
        fs::create_dir_all(DIRECTORY).map_err(LockError::Io)?;
        let path = Path::new(DIRECTORY).join(format!("{instance}.lock"));
        loop {
            let file = File::create(&path).map_err(LockError::Io)?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => return Err(LockError::Taken(path)),
                Err((_, errno)) => return Err(LockError::Io(errno.into())),
            };
            // Its last holder may have removed the file after it was opened here.
            if is_at(&file, &path).map_err(LockError::Io)? {
                return Ok(Self { path, file });
            }
        }
    }

    /// The right that another agent has and shares with this one.
    pub(crate) fn inherit(instance: &str, descriptor: OwnedFd) -> io::Result<Self> {
        let path = Path::new(DIRECTORY).join(format!("{instance}.lock"));
        // It is the same lock to the kernel, so this can't fail but where it is none at all.
        let locked = Flock::lock(File::from(descriptor), FlockArg::LockExclusiveNonblock);
        match locked {
            Ok(file) => Ok(Self { path, file }),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// For another agent that is to share it.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// Leaves the right to who shares it: neither is the file removed nor the lock released.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether `path` leads to this very file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
