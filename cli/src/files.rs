//! Files that the operator names: read up to a bound, written whole or not at all.

use std::fmt::Display;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// All of a file, which has `limit` bytes at most.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let bytes = read_start(path, limit + 1)?;
    if bytes.len() > limit {
        return Err(too_long(path, limit));
    }
    Ok(bytes)
}

/// The first `length` bytes of a file, or all where it has fewer.
pub(crate) fn read_start(path: &Path, length: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    open(path)?
        .take(length as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(path, error))?;
    Ok(bytes)
}

/// A private key. No copy of it stays in memory.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    // Room for all of it: a string that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_PEM_BYTES + 1));
    open(path)?
        .take(MAX_PEM_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(path, error))?;
    if text.len() > MAX_PEM_BYTES {
        return Err(too_long(path, MAX_PEM_BYTES));
    }
    Ok(text)
}

/// Writes what anybody may read, over what was there before.
pub(crate) fn write(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    let written = match fs::metadata(path) {
        // A pipe or a terminal must stay what it is.
        Ok(there) if !there.is_file() => fs::write(path, contents),
        _ => replace(path, contents),
    };
    Ok(written.with_context(|| format!("can't write {}", path.display()))?)
}

/// Writes the file `name` of a directory, as [`write()`] does.
pub(crate) fn write_in(dir: &Path, name: &str, contents: &[u8]) -> Result<PathBuf, Failure> {
    let path = dir.join(name);
    write(&path, contents)?;
    Ok(path)
}

fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(dir)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: impl Display) -> Failure {
    Failure::usage(format!("can't read {}: {error}", path.display()))
}

fn too_long(path: &Path, limit: usize) -> Failure {
    Failure::usage(format!(
        "{} is longer than {limit} bytes: is it the right file?",
        path.display()
    ))
}

/// More than a key, or a few certificates, can take in PEM form.
pub(crate) const MAX_PEM_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_not_beyond() {
        let dir = tempfile::tempdir().unwrap();
        let path = write_in(dir.path(), "file", b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        read(&path, 4).unwrap_err();
        assert_eq!(read_start(&path, 4).unwrap(), b"1234");
        // It never ends.
        read(Path::new("/dev/zero"), 1 << 20).unwrap_err();
        read_secret(Path::new("/dev/zero")).unwrap_err();
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        write_in(dir.path(), "file", b"a longer text").unwrap();
        let path = write_in(dir.path(), "file", b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7133, 0, "{mode:o}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_device_stays_a_device() {
        write(Path::new("/dev/null"), b"text").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let Err(Failure::Failed(error)) = write(Path::new("/nowhere/file"), b"") else {
            panic!("written");
        };
        assert!(format!("{error:#}").starts_with("can't write /nowhere/file: "));
    }
}
