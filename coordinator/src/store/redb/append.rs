//! The write transactions, and the points at which tests kill the process.

use fail::fail_point;
use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

use super::super::append::Append;
use super::super::error::Object;
use super::super::{StoredHead, record};
use super::{Failure, HEAD, LOG, OBJECTS};

pub(super) enum Outcome {
    Appended,
    Conflict(Option<StoredHead>),
}

/// Compares, and appends in one durable transaction.
pub(super) fn append(database: &Database, request: &Append) -> Result<Outcome, Failure> {
    fail_point!("store::redb::before_write_txn");
    let transaction = begin(database)?;
    {
        let mut heads = transaction.open_table(HEAD)?;
        let mut log = transaction.open_table(LOG)?;
        if logged(&log, request.head.seq)? == Some(request.head) {
            return Ok(Outcome::Appended);
        }
        let current = match heads.get(())? {
            Some(value) => {
                Some(record::decode(value.value(), Object::Head).map_err(Failure::Store)?)
            }
            None => None,
        };
        if current != request.expected {
            return Ok(Outcome::Conflict(current));
        }
        let mut objects = transaction.open_table(OBJECTS)?;
        for (hash, bytes) in &request.objects {
            objects.insert(hash.0, bytes.as_slice())?;
        }
        fail_point!("store::redb::after_objects");
        let head = record::encode(&request.head);
        log.insert(request.head.seq, head.as_bytes())?;
        heads.insert((), head.as_bytes())?;
    }
    fail_point!("store::redb::before_commit");
    transaction.commit()?;
    fail_point!("store::redb::after_commit");
    Ok(Outcome::Appended)
}

/// Commits the same contents once more.
///
/// The file's header has two commit slots and one bit that says which is the newer. Were the
/// other one an append behind, that bit flipped would be the loss of an acknowledged append.
pub(super) fn repeat(database: &Database) -> Result<(), Failure> {
    begin(database)?.commit()?;
    fail_point!("store::redb::after_repeat");
    Ok(())
}

/// Whether this head is part of the history.
pub(super) fn is_logged(database: &Database, head: &StoredHead) -> Result<bool, Failure> {
    let log = database.begin_read()?.open_table(LOG)?;
    Ok(logged(&log, head.seq)? == Some(*head))
}

/// In two phases: a page of the newest commit that is damaged later is an error when the file is
/// opened, where one phase lets redb take it for a torn write and go back to the commit before.
fn begin(database: &Database) -> Result<WriteTransaction, Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

fn logged(
    log: &impl ReadableTable<u64, &'static [u8]>,
    seq: u64,
) -> Result<Option<StoredHead>, Failure> {
    let Some(value) = log.get(seq)? else {
        return Ok(None);
    };
    record::decode(value.value(), Object::Log(seq))
        .map(Some)
        .map_err(Failure::Store)
}
