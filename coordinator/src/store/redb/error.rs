use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::error::{Found, Object, Place, StoreError};

/// What an error of redb on this file means.
pub(super) fn explain(path: &Path, failed_sync: &AtomicBool, error: redb::Error) -> StoreError {
    if failed_sync.load(Ordering::Acquire) {
        return StoreError::NotDurable {
            path: path.to_owned(),
        };
    }
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            StoreError::Locked {
                path: path.to_owned(),
            }
        }
        redb::Error::Io(source) => explain_io(path, source),
        // Everything else that can come up with one process, one set of tables and no savepoint:
        // the file is not what this store has written.
        other => corrupt(path, other.to_string()),
    }
}

/// What an error of the operating system on this file means.
pub(super) fn explain_io(path: &Path, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::Full {
                place: Place::File(path.to_owned()),
            }
        }
        // Of redb, not of the operating system: no magic number, or a page past the end.
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            corrupt(path, source.to_string())
        }
        _ => StoreError::Io {
            path: path.to_owned(),
            source,
        },
    }
}

/// A panic of redb over this file.
pub(super) fn damage(path: &Path, panic: &(dyn Any + Send)) -> StoreError {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("the database engine gave up");
    corrupt(path, message.to_owned())
}

fn corrupt(path: &Path, what: String) -> StoreError {
    StoreError::Corrupt {
        object: Object::File(path.to_owned()),
        got: Found::Damage(what),
    }
}
