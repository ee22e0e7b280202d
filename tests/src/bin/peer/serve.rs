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
    /// Listen without `bind()`: the addresses give the family, the kernel all else.
    #[arg(long)]
    unbound: bool,
    /// `SO_REUSEPORT`.
    #[arg(long)]
    reuse_port: bool,
    /// `IPV6_V6ONLY`.
    #[arg(long)]
    only_v6: bool,
    #[command(flatten)]
    conversation: Conversation,
}

impl Serve {
    pub(crate) fn run(&self) -> Result<()> {
        thread::scope(|scope| {
            for address in &self.listen {
                let listener = self.listen(*address)?;
                let address = listener.local_addr()?;
                report(&Report::Listening { address })?;
                scope.spawn(move || {
                    loop {
                        let spawned = listener.accept().and_then(|(connection, from)| {
                            // Here, and not on its thread: the order of the reports is that in
                            // which connections were accepted.
                            let ends = self.accepted(&connection, from);
                            thread::Builder::new()
                                .stack_size(STACK)
                                .spawn_scoped(scope, move || self.converse(connection, ends))
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
        socket.set_reuse_port(self.reuse_port)?;
        if self.only_v6 {
            socket.set_only_v6(true)?;
        }
        if !self.unbound {
            socket
                .bind(&address.into())
                .with_context(|| format!("could not bind {address}"))?;
        }
        socket.listen(4096)?;
        Ok(socket.into())
    }

    fn accepted(&self, connection: &TcpStream, from: SocketAddr) -> Ends {
        let ends = Ends {
            accepted_from: Some(from),
            peer: connection.peer_addr().ok(),
            local: connection.local_addr().ok(),
        };
        self.say(&Report::Accepted(ends));
        ends
    }

    fn converse(&self, connection: TcpStream, ends: Ends) {
        let closed = self.conversation.hold(&connection, ends, 0);
        drop(connection);
        self.say(&Report::Closed(closed));
    }

    fn say(&self, event: &Report) {
        if !self.quiet {
            let _ = report(event); // nobody reads it any more
        }
    }
}

const STACK: usize = 256 << 10;
