//! The few operations on configfs-tsm, replaceable in tests: no plain directory acts like it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

pub(crate) trait TsmFs: Send + Sync + fmt::Debug {
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// The whole of an attribute, or one byte more than `limit` where it is longer.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
    /// Writes an attribute that exists, in one write(2).
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
}

/// configfs itself.
#[derive(Debug)]
pub(crate) struct Configfs;

impl TsmFs for Configfs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        read_at_most(path, limit)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // configfs takes a binary attribute over when the file is closed: here, on return.
        let written = OpenOptions::new().write(true).open(path)?.write(bytes)?;
        if written == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}

/// The whole of a file, or one byte more than `limit` where it is longer.
pub(crate) fn read_at_most(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_written_only_where_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("inblob");
        let error = Configfs.write(&path, &[1; 64]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        fs::write(&path, "").unwrap();
        Configfs.write(&path, &[1; 64]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [1; 64]);
    }

    #[test]
    fn no_more_than_a_byte_above_the_limit_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outblob");
        fs::write(&path, [7; 100]).unwrap();
        assert_eq!(Configfs.read(&path, 100).unwrap().len(), 100);
        assert_eq!(Configfs.read(&path, 10).unwrap().len(), 11);
    }
}
