use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use redb::{Builder, Database};

use super::super::error::{Found, Object, StoreError};
use super::backend::Backend;
use super::error::{explain, explain_io};
use super::{HEAD, LOG, OBJECTS};

/// Opens the file and verifies all of it, or makes it.
pub(super) fn open(path: &Path, failed_sync: &Arc<AtomicBool>) -> Result<Database, StoreError> {
    let open = || File::options().read(true).write(true).open(path);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path, failed_sync)?;
            open()
        }
        opened => opened,
    }
    .map_err(|source| explain_io(path, source))?;
    // A store is never made in place, so an empty file is one that was truncated.
    if file.metadata().is_ok_and(|it| it.len() == 0) {
        return Err(StoreError::Corrupt {
            object: Object::File(path.to_owned()),
            got: Found::Empty,
        });
    }
    database(file, failed_sync).map_err(|error| explain(path, failed_sync, error))
}

/// Makes an empty store beside `path`, and gives it that name when it is complete.
fn create(path: &Path, failed_sync: &Arc<AtomicBool>) -> Result<(), StoreError> {
    let failed = |source| explain_io(path, source);
    let directory = match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    let unnamed = tempfile::Builder::new()
        .prefix(".sealwire-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(failed)?;
    unnamed
        .reopen()
        .map_err(redb::Error::Io)
        .and_then(|file| database(file, failed_sync))
        .and_then(|database| make_tables(&database))
        .map_err(|error| explain(path, failed_sync, error))?;
    match unnamed.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(error.error));
        }
        _ => {}
    }
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)
}

fn database(file: File, failed_sync: &Arc<AtomicBool>) -> Result<Database, redb::Error> {
    let backend = Backend::new(file, failed_sync)?;
    let database = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)?;
    Ok(database)
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.open_table(HEAD)?;
    transaction.open_table(LOG)?;
    transaction.open_table(OBJECTS)?;
    transaction.commit()?;
    Ok(())
}

/// A few of the largest objects; redb's own default is a gibibyte.
const CACHE_BYTES: usize = 16 << 20;
