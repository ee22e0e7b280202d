//! The program's bytes as they are, for destinations that the configuration exempts from TLS.

use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::backlog::Backlog;
use super::batch::{BATCH_LEN, Batch};
use super::wire::{Fetched, Tail, Wire};
use super::{RelayEnd, app_error, wire_error};

/// No format at all.
pub(super) struct PlaintextWire;

impl Wire for PlaintextWire {
    fn poll_fetch_outbound(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        batch: &mut Batch,
        _to_wire: &mut Backlog,
    ) -> Poll<Result<Fetched, RelayEnd>> {
        let len = ready!(batch.poll_read(cx, app, 0..BATCH_LEN)).map_err(app_error)?;
        Poll::Ready(Ok(fetched(batch, len)))
    }

    fn poll_fetch_inbound(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut TcpStream,
        batch: &mut Batch,
        _to_wire: &mut Backlog,
    ) -> Poll<Result<Fetched, RelayEnd>> {
        let len = ready!(batch.poll_read(cx, wire, 0..BATCH_LEN)).map_err(wire_error)?;
        Poll::Ready(Ok(fetched(batch, len)))
    }

    fn finish(&mut self, _to_wire: &mut Backlog) -> Result<(), RelayEnd> {
        Ok(())
    }

    fn give_up(&mut self, _end: RelayEnd, _to_wire: &mut Backlog) {}
}

fn fetched(batch: &mut Batch, len: usize) -> Fetched {
    if len == 0 {
        return Fetched {
            plaintext: 0,
            tail: Tail::Finished,
        };
    }
    batch.push(0..len);
    Fetched {
        plaintext: len,
        tail: Tail::Open,
    }
}
