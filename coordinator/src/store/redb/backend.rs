use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fail::fail_point;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// redb's file, with two differences: space is taken from the file system when the file grows,
/// and a failed sync is remembered.
///
/// A sparse file would run out of space at any write, also one of those that repair it when it is
/// opened the next time. One that is allocated runs out when it grows, before anything changes.
#[derive(Debug)]
pub(super) struct Backend {
    inner: FileBackend,
    file: File,
    failed_sync: Arc<AtomicBool>,
}

impl Backend {
    pub(super) fn new(file: File, failed_sync: &Arc<AtomicBool>) -> Result<Self, DatabaseError> {
        // The same open file: it has no lock of its own, and `inner` unlocks when it is closed.
        let other = file.try_clone().map_err(redb::StorageError::Io)?;
        Ok(Self {
            inner: FileBackend::new(other)?,
            file,
            failed_sync: Arc::clone(failed_sync),
        })
    }

    fn grow(&self, from: u64, to: u64) -> io::Result<()> {
        let out_of_range = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let offset = i64::try_from(from).map_err(out_of_range)?;
        let length = i64::try_from(to - from).map_err(out_of_range)?;
        loop {
            match fallocate(&self.file, FallocateFlags::empty(), offset, length) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return self.inner.set_len(to),
                Err(error) => {
                    // Some file systems keep what they could allocate.
                    self.inner.set_len(from)?;
                    return Err(error.into());
                }
            }
        }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fail_point!("store::redb::file_set_len");
        let current = self.inner.len()?;
        if len > current {
            self.grow(current, len)
        } else {
            self.inner.set_len(len)
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let sync = || {
            fail_point!("store::redb::file_sync", |_| Err(Errno::EIO.into()));
            self.inner.sync_data()
        };
        // Linux reports a failed write-back once and forgets the pages: a second sync succeeds
        // although the first one's data is lost. So nothing that follows it can be believed.
        sync().inspect_err(|_| self.failed_sync.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        fail_point!("store::redb::file_write");
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
