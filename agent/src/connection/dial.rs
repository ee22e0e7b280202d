//! Opening the second socket of a connection: towards the destination, or towards the program.

use std::{
    io,
    net::{SocketAddr, TcpStream as StdTcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use ebpf_abi::FlowKey;
use nix::errno::Errno;
use socket2::Socket;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{Door, RefusalReason};
use crate::listen::{prepare, prepare_local};

/// How long a destination may take to answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a dial came to nothing.
#[derive(Debug)]
pub(super) struct DialError {
    pub(super) reason: RefusalReason,
    pub(super) source: io::Error,
}

/// Dials `destination` from the workload's namespace, from the program's own address and port where
/// these are free: the other side then sees what `getsockname` told the program.
pub(super) async fn wire(
    door: &Door,
    destination: SocketAddr,
    source: Option<SocketAddr>,
) -> Result<TcpStream, DialError> {
    if let Some(source) = source {
        let socket = wire_socket(door, destination)?;
        let bound = socket
            .set_reuse_address(true)
            .and_then(|()| socket.bind(&source.into()));
        if bound.is_ok() {
            match connect(socket, destination).await {
                // The port leads to this destination already, or lately did.
                Err(error) if is(&error.source, Errno::EADDRNOTAVAIL) => {}
                other => return other,
            }
        }
    }
    connect(wire_socket(door, destination)?, destination).await
}

fn wire_socket(door: &Door, destination: SocketAddr) -> Result<Socket, DialError> {
    let socket = door.workload.netns.tcp_socket(&destination.ip())?;
    prepare(&socket)?;
    door.worker.hooks.borrow().permit(&socket)?;
    Ok(socket)
}

/// Dials the program that the connection from `client` is meant for, and lets the program see the
/// client as its peer.
pub(super) async fn program(
    door: &Door,
    program: SocketAddr,
    client: SocketAddr,
) -> Result<(TcpStream, ClientName), DialError> {
    let socket = door.workload.netns.tcp_socket(&program.ip())?;
    prepare_local(&socket)?;
    // From the program's own address, so that the connection stays in the namespace and passes
    // `sk_lookup` untouched; the port must be known before the SYN.
    socket.bind(&SocketAddr::new(program.ip(), 0).into())?;
    let own = socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("no address"))?;
    let name = ClientName::publish(door, own, program, client)?;
    Ok((connect(socket, program).await?, name))
}

/// A client's name in the kernel's table, until the program's socket has taken it over.
#[derive(Debug)]
pub(super) struct ClientName {
    worker: std::rc::Rc<super::Worker>,
    key: FlowKey,
}

impl ClientName {
    fn publish(
        door: &Door,
        own: SocketAddr,
        program: SocketAddr,
        client: SocketAddr,
    ) -> io::Result<Self> {
        let key = FlowKey::new(
            door.workload.netns_cookie,
            own.into(),
            program.port().into(),
        );
        door.worker.hooks.borrow().name_client(key, client)?;
        Ok(Self {
            worker: door.worker.clone(),
            key,
        })
    }
}

impl Drop for ClientName {
    /// The kernel has removed it long since, unless the program is not in the workload's cgroup or
    /// never answered.
    fn drop(&mut self) {
        self.worker.hooks.borrow().forget_client(self.key);
    }
}

async fn connect(socket: Socket, destination: SocketAddr) -> Result<TcpStream, DialError> {
    let socket = TcpSocket::from_std_stream(StdTcpStream::from(OwnedFd::from(socket)));
    match timeout(DIAL_TIMEOUT, socket.connect(destination)).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(DialError::timeout()),
    }
}

impl DialError {
    pub(super) fn timeout() -> Self {
        io::Error::from(io::ErrorKind::TimedOut).into()
    }
}

impl From<io::Error> for DialError {
    fn from(source: io::Error) -> Self {
        let reason = match source.kind() {
            io::ErrorKind::ConnectionRefused => RefusalReason::DialRefused,
            io::ErrorKind::TimedOut => RefusalReason::DialTimeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                RefusalReason::DialUnreachable
            }
            _ => RefusalReason::DialFailed,
        };
        Self { reason, source }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
