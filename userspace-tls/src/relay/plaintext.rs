//! The program's bytes as they are, for destinations that the configuration exempts from TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::backlog::Backlog;
use super::batch::{BATCH_LEN, Batch};
use super::to_app::ToApp;
use super::wire::{Fetched, Tail, Wire};
use super::{RelayEnd, app_error, wire_error};
use crate::queues::Queues;

/// No format at all.
#[derive(Default)]
pub(super) struct PlaintextWire {
    backlog: Backlog,
}

impl Wire for PlaintextWire {
    fn poll_fetch_outbound(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        _wire: &mut TcpStream,
        batch: &mut Batch,
    ) -> Poll<Result<Fetched, RelayEnd>> {
        let len = ready!(batch.poll_read(cx, app, Queues::Tcp, 0..BATCH_LEN)).map_err(app_error)?;
        Poll::Ready(Ok(fetched(batch, len)))
    }

    fn poll_fetch_inbound(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
        _to_app: &mut ToApp,
    ) -> Poll<Result<Fetched, RelayEnd>> {
        let len =
            ready!(batch.poll_read(cx, wire, Queues::Tcp, 0..BATCH_LEN)).map_err(wire_error)?;
        Poll::Ready(Ok(fetched(batch, len)))
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
    ) -> Result<(), RelayEnd> {
        batch
            .poll_write(cx, wire, &mut self.backlog)
            .map_err(wire_error)
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
    ) -> Poll<Result<(), RelayEnd>> {
        self.backlog.poll_flush(cx, wire).map_err(wire_error)
    }

    fn finish(&mut self) -> Result<(), RelayEnd> {
        Ok(())
    }

    fn poll_shutdown(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        Pin::new(wire).poll_shutdown(cx)
    }

    fn give_up(&mut self, _cx: &mut Context<'_>, _wire: &mut TcpStream, _end: RelayEnd) {}
}

fn fetched(batch: &mut Batch, len: usize) -> Fetched {
    if len == 0 {
        return Fetched {
            tail: Tail::Finished,
            ..Fetched::default()
        };
    }
    batch.push(0..len);
    Fetched {
        plaintext: len,
        ..Fetched::default()
    }
}
