use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fail::fail_point;
use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// redb's file, which also remembers a failed sync.
#[derive(Debug)]
pub(super) struct Backend {
    file: FileBackend,
    failed_sync: Arc<AtomicBool>,
}

impl Backend {
    pub(super) fn new(file: File, failed_sync: &Arc<AtomicBool>) -> Result<Self, DatabaseError> {
        Ok(Self {
            file: FileBackend::new(file)?,
            failed_sync: Arc::clone(failed_sync),
        })
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fail_point!("store::redb::file_set_len");
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let sync = || {
            fail_point!("store::redb::file_sync", |_| Err(io::Error::other(
                "fail point"
            )));
            self.file.sync_data()
        };
        // Linux reports a failed write-back once and forgets the pages: a second sync succeeds
        // although the first one's data is lost. So nothing that follows it can be believed.
        sync().inspect_err(|_| self.failed_sync.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        fail_point!("store::redb::file_write");
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
