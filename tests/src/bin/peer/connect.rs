//! `peer connect`: the ways in which programs connect.

use std::fs;
use std::io::{self, BufRead};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};
use testbed::peer::Ends;
use testbed::{Report, dns, permit};

use crate::conversation::Conversation;
use crate::{errno, report};

#[derive(Args)]
pub(crate) struct Connect {
    /// Where to.
    #[arg(long)]
    to: SocketAddr,
    /// Look this name up first, and connect to what it has instead of the address of `--to`.
    #[arg(long, requires = "name_server")]
    look_up: Option<String>,
    /// Whom to ask, over UDP.
    #[arg(long)]
    name_server: Option<SocketAddr>,
    /// So many times in all; names are numbered before the last, `7.db.test`.
    #[arg(long, default_value_t = 1)]
    look_ups: u32,
    /// Use an IPv6 socket for an IPv4 destination.
    #[arg(long)]
    v4_mapped: bool,
    /// Bind to this address before.
    #[arg(long)]
    bind_source: Option<SocketAddr>,
    /// `SO_BINDTODEVICE`.
    #[arg(long)]
    bind_to_device: Option<String>,
    /// Use Multipath TCP.
    #[arg(long)]
    mptcp: bool,
    /// Send the first bytes in the SYN.
    #[arg(long)]
    tcp_fastopen: bool,
    /// Connect a non-blocking socket, and wait in poll.
    #[arg(long)]
    nonblocking: bool,
    /// Never let it block, and wait in poll for everything.
    #[arg(long)]
    never_blocking: bool,
    /// Milliseconds to wait for the connection.
    #[arg(long, default_value_t = 10_000)]
    patience: u16,
    /// Wait for a line on standard input between making the socket and using it.
    #[arg(long)]
    wait_after_socket: bool,
    /// Move into this cgroup after the wait.
    #[arg(long)]
    join_cgroup: Option<PathBuf>,
    /// Ask Sealwire to let the socket past the guard, as its agent does, with this token in hexadecimal.
    #[arg(long)]
    permit_by: Option<String>,
    /// Milliseconds to keep the connection open after the conversation.
    #[arg(long, default_value_t = 0)]
    linger: u64,
    #[command(flatten)]
    conversation: Conversation,
}

impl Connect {
    pub(crate) fn run(&mut self) -> Result<()> {
        if let (Some(name), Some(server)) = (&self.look_up, self.name_server) {
            for nth in 1..self.look_ups {
                dns::look_up(&format!("{nth}.{name}"), server, self.to.ip())?;
            }
            let addresses = dns::look_up(name, server, self.to.ip())?;
            self.to
                .set_ip(*addresses.first().context("the name has no address")?);
        }
        let socket = self.socket()?;
        if self.wait_after_socket {
            report(&Report::SocketMade)?;
            io::stdin().lock().read_line(&mut String::new())?;
        }
        if let Some(cgroup) = &self.join_cgroup {
            fs::write(cgroup.join("cgroup.procs"), "0").context("could not join the cgroup")?;
        }
        if let Some(token) = &self.permit_by {
            let asked = permit(&socket, &hex::decode(token)?);
            report(&Report::Asked {
                errno: asked.err().map(|error| errno(&error)),
            })?;
        }

        let started = Instant::now();
        let sent = match self.connect(&socket) {
            Ok(sent) => sent,
            Err(error) => {
                return report(&Report::ConnectFailed {
                    errno: errno(&error),
                    milliseconds: started.elapsed().as_millis() as u64,
                });
            }
        };
        let connection = TcpStream::from(socket);
        let ends = Ends {
            accepted_from: None,
            peer: connection.peer_addr().ok(),
            local: connection.local_addr().ok(),
        };
        report(&Report::Connected(ends))?;
        let closed = self.conversation.hold(&connection, ends, sent);
        thread::sleep(Duration::from_millis(self.linger));
        drop(connection);
        report(&Report::Closed(closed))
    }

    fn socket(&self) -> Result<Socket> {
        let protocol = if self.mptcp {
            Protocol::MPTCP
        } else {
            Protocol::TCP
        };
        let domain = Domain::for_address(self.destination());
        let socket = Socket::new(domain, Type::STREAM, Some(protocol))?;
        if let Some(size) = self.conversation.sndbuf {
            socket.set_send_buffer_size(size)?;
        }
        if let Some(size) = self.conversation.rcvbuf {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(device) = &self.bind_to_device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(source) = self.bind_source {
            socket.bind(&source.into())?;
        }
        Ok(socket)
    }

    /// Connects; how many bytes of the conversation went with it.
    fn connect(&self, socket: &Socket) -> io::Result<u64> {
        let to = self.destination().into();
        if self.tcp_fastopen {
            let first = self.conversation.first_bytes(IN_A_SYN);
            let sent = socket.send_to_with_flags(&first, &to, libc::MSG_FASTOPEN)?;
            socket.set_nonblocking(self.never_blocking)?;
            return Ok(sent as u64);
        }
        if !self.nonblocking && !self.never_blocking {
            // Not blocking for minutes where SYNs are dropped, but otherwise a plain connect.
            socket.set_write_timeout(Some(Duration::from_millis(self.patience.into())))?;
            socket.connect(&to)?;
            return Ok(0);
        }
        socket.set_nonblocking(true)?;
        match socket.connect(&to) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                let mut writable = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut writable, PollTimeout::from(self.patience))? == 0 {
                    return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
                }
                socket.take_error()?.map_or(Ok(()), Err)?;
            }
            done => done?,
        }
        socket.set_nonblocking(self.never_blocking)?;
        Ok(0)
    }

    fn destination(&self) -> SocketAddr {
        match self.to.ip() {
            IpAddr::V4(ip) if self.v4_mapped => {
                SocketAddrV6::new(ip.to_ipv6_mapped(), self.to.port(), 0, 0).into()
            }
            _ => self.to,
        }
    }
}

const IN_A_SYN: usize = 1024;
