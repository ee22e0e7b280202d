//! What the wire side of a relay must be able to do.

use std::task::{Context, Poll};

use tokio::net::TcpStream;

use super::RelayEnd;
use super::backlog::Backlog;
use super::batch::Batch;

/// A format of the bytes on the wire.
pub(super) trait Wire {
    /// Reads from `app` once and puts into `batch` what is to be written to the wire. Called only
    /// while `to_wire` is empty; what it puts there goes ahead of the batch.
    fn poll_fetch_outbound(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        batch: &mut Batch,
        to_wire: &mut Backlog,
    ) -> Poll<Result<Fetched, RelayEnd>>;

    /// Reads from `wire` once and puts into `batch` what is to be written to the program; answers
    /// to the peer go to `to_wire`.
    fn poll_fetch_inbound(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
        to_wire: &mut Backlog,
    ) -> Poll<Result<Fetched, RelayEnd>>;

    /// Tells the peer that the outbound direction has ended.
    fn finish(&mut self, to_wire: &mut Backlog) -> Result<(), RelayEnd>;

    /// Tells the peer why the connection is about to be reset, if there is a way to.
    fn give_up(&mut self, end: RelayEnd, to_wire: &mut Backlog);
}

/// What one read brought.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Bytes of plaintext.
    pub(super) plaintext: usize,
    /// What follows them.
    pub(super) tail: Tail,
}

/// What follows the data of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Tail {
    /// Perhaps more.
    #[default]
    Open,
    /// The orderly end of the direction.
    Finished,
    /// An error; the data before it is good.
    Failed(RelayEnd),
}
