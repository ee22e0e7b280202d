//! Files that a reader sees whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use thiserror::Error;

/// Who may read a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Audience {
    /// Everyone, as far as the umask allows.
    Public,
    /// The owner alone, and nobody writes.
    Secret,
}

/// What to do with a file of the same name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Existing {
    Replace,
    Refuse,
}

/// Writes `dir/name` through a temporary file in `dir`, synced before it gets its name.
pub(super) fn write_file(
    dir: &Path,
    name: &str,
    contents: &str,
    audience: Audience,
    existing: Existing,
) -> Result<PathBuf, WriteError> {
    let path = dir.join(name);
    write(dir, &path, contents.as_bytes(), audience, existing).map_err(|source| WriteError {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

/// Makes the names of the files in `dir` survive a power cut.
pub(super) fn sync_dir(dir: &Path) -> Result<(), WriteError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| WriteError {
            path: dir.to_owned(),
            source,
        })
}

/// Why a file or directory was not written.
#[derive(Debug, Error)]
#[error("cannot write {}", path.display())]
pub struct WriteError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

fn write(
    dir: &Path,
    path: &Path,
    contents: &[u8],
    audience: Audience,
    existing: Existing,
) -> io::Result<()> {
    let mode = match audience {
        Audience::Public => 0o644,
        Audience::Secret => 0o400,
    };
    // The mode is given when the file is created: at no time can others open a secret.
    let mut file: NamedTempFile = tempfile::Builder::new()
        .prefix(".sealwire-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(dir)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    match existing {
        Existing::Replace => file.persist(path)?,
        Existing::Refuse => file.persist_noclobber(path)?,
    };
    Ok(())
}
