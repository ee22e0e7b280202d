//! What goes to the program.

use std::io;
use std::task::{Context, Poll, ready};

use kernel_tls::Pipe;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::backlog::Backlog;
use super::batch::Batch;
use super::ready::poll_io;

/// What the program's socket has not taken yet, copied or in a pipe. Holds memory and descriptors only
/// while there is something.
#[derive(Debug, Default)]
pub(super) struct ToApp {
    backlog: Backlog,
    /// Behind the backlog.
    pipe: Option<Pipe>,
}

impl ToApp {
    /// Takes what was spliced. Only when there is nothing else.
    pub(super) fn splice(&mut self, pipe: Pipe) {
        self.pipe = Some(pipe);
    }

    /// Writes once what has come, and keeps the rest.
    pub(super) fn write(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        batch: &mut Batch,
    ) -> io::Result<()> {
        batch.poll_write(cx, app, &mut self.backlog)?;
        match self.poll_flush_pipe(cx, app) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Writes what was kept.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        ready!(self.backlog.poll_flush(cx, app))?;
        self.poll_flush_pipe(cx, app)
    }

    fn poll_flush_pipe(&mut self, cx: &mut Context<'_>, app: &TcpStream) -> Poll<io::Result<()>> {
        if let Some(pipe) = &mut self.pipe {
            while pipe.held() > 0 {
                ready!(poll_io(cx, app, Interest::WRITABLE, || pipe.drain(app)))?;
            }
        }
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
        Poll::Ready(Ok(()))
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.backlog.capacity() + self.pipe.as_ref().map_or(0, Pipe::held)
    }
}
