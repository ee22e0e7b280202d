//! What the wire side of a relay must be able to do.

use std::io;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use super::RelayEnd;
use super::batch::Batch;
use super::to_app::ToApp;

/// A format of the bytes on the wire, with what the wire's socket has not taken yet. Everything that
/// goes to the wire goes through it: nothing else knows in which form the socket wants its bytes.
pub(super) trait Wire {
    /// Reads from `app` once and puts into `batch`, or keeps in a pipe, what is to be written to the
    /// wire. Called only when everything before was flushed.
    fn poll_fetch_outbound(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        wire: &mut TcpStream,
        batch: &mut Batch,
    ) -> Poll<Result<Fetched, RelayEnd>>;

    /// Reads from `wire` once and puts into `batch`, or splices to `to_app`, what is to be written to
    /// the program. Called only when everything before was flushed.
    fn poll_fetch_inbound(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
        to_app: &mut ToApp,
    ) -> Poll<Result<Fetched, RelayEnd>>;

    /// Writes once what [`Self::poll_fetch_outbound`] has put into `batch`, and keeps the rest.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
    ) -> Result<(), RelayEnd>;

    /// Writes what was kept.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
    ) -> Poll<Result<(), RelayEnd>>;

    /// Tells the peer that the outbound direction has ended.
    fn finish(&mut self) -> Result<(), RelayEnd>;

    /// Ends the outbound direction of the socket itself, once it has everything.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>, wire: &mut TcpStream)
    -> Poll<io::Result<()>>;

    /// Tells the peer why the connection is about to be reset, if there is a way to.
    fn give_up(&mut self, cx: &mut Context<'_>, wire: &mut TcpStream, end: RelayEnd);
}

/// What one read brought.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Bytes of plaintext.
    pub(super) plaintext: usize,
    /// Whether they were spliced.
    pub(super) spliced: bool,
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
