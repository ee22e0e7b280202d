//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::rand;

/// Puts `contents` at `path`, whatever was there before, and onto the disk.
///
/// The file has `mode` from before its first byte on, less what the umask takes. After a failure the
/// old file is as it was.
///
/// # Errors
/// What the system says; `path` has to have a parent directory, which has to be there.
pub(crate) fn write(path: &Path, mode: u32, contents: &[u8]) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut unique = [0; 8];
    rand::fill(&mut unique).map_err(|_| io::Error::other("no random bytes"))?;
    let name = format!(".{}.{}", name.to_string_lossy(), hex::encode(unique));
    let temporary = directory.join(name);
    let written = write_new(&temporary, mode, contents).and_then(|()| {
        fs::rename(&temporary, path)?;
        // The name has to last too.
        let directory = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        File::open(directory)?.sync_all()
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, mode: u32, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        fs::write(&path, "old").unwrap();
        write(&path, 0o400, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "").unwrap();
        write(&path, 0o600, b"new").unwrap_err();
        assert!(path.join("inside").exists());
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
        write(&directory.path().join("absent/file"), 0o600, b"").unwrap_err();
        write(Path::new("/"), 0o600, b"").unwrap_err();
    }
}
