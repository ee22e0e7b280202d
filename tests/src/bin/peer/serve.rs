//! `peer serve`.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};
use testbed::Report;
use testbed::peer::Ends;

use crate::conversation::Conversation;
use crate::report;

#[derive(Args)]
pub(crate) struct Serve {
    /// An address to listen on; may be given more than once.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// Say nothing about single connections.
    #[arg(long)]
    quiet: bool,
    /// Listen with Multipath TCP.
    #[arg(long)]
    mptcp: bool,
    #[command(flatten)]
    conversation: Conversation,
}

impl Serve {
    pub(crate) fn run(&self) -> Result<()> {
        thread::scope(|scope| {
            for address in &self.listen {
                let listener = self.listen(*address)?;
                report(&Report::Listening { address: *address })?;
                scope.spawn(move || {
                    loop {
                        let spawned = listener.accept().and_then(|connection| {
                            thread::Builder::new()
                                .stack_size(STACK)
                                .spawn_scoped(scope, move || self.converse(connection))
                        });
                        if let Err(error) = spawned {
                            eprintln!("could not serve a connection: {error}");
                        }
                    }
                });
            }
            Ok(())
        })
    }

    fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        let protocol = if self.mptcp {
            Protocol::MPTCP
        } else {
            Protocol::TCP
        };
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))?;
        socket.set_reuse_address(true)?;
        if let Some(size) = self.conversation.rcvbuf {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = self.conversation.sndbuf {
            socket.set_send_buffer_size(size)?;
        }
        socket
            .bind(&address.into())
            .with_context(|| format!("could not bind {address}"))?;
        socket.listen(4096)?;
        Ok(socket.into())
    }

    fn converse(&self, (connection, from): (TcpStream, SocketAddr)) {
        let ends = Ends {
            accepted_from: Some(from),
            peer: connection.peer_addr().ok(),
            local: connection.local_addr().ok(),
        };
        let say = |event: &Report| {
            if !self.quiet {
                let _ = report(event); // nobody reads it any more
            }
        };
        say(&Report::Accepted(ends));
        let closed = self.conversation.hold(&connection, ends, 0);
        drop(connection);
        say(&Report::Closed(closed));
    }
}

const STACK: usize = 256 << 10;
