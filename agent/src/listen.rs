//! The agent's listeners in a workload's namespace.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener},
    os::fd::OwnedFd,
    time::Duration,
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::{inherited::Purpose, netns::Netns};

/// The listeners of one worker in one workload. Ports are the kernel's choice: the eBPF maps carry
/// them, so nothing that a program may want to bind is taken from it by name.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// For connections that the workload opens; on the loopback.
    pub egress: Vec<TcpListener>,
    /// For connections that others open to the workload. On the loopback too: only `sk_lookup` can
    /// bring a connection from outside here.
    pub ingress: Vec<TcpListener>,
}

/// A listener for connections to an address that the configuration names.
#[derive(Debug)]
pub(crate) struct NamedSocket {
    /// The address.
    pub listen: SocketAddrV4,
    /// The listener.
    pub socket: TcpListener,
}

/// Why there are no listeners.
#[derive(Debug)]
pub(crate) enum ListenError {
    /// Another program has the address.
    Taken(SocketAddrV4),
    /// The system says no.
    System(io::Error),
}

impl Listeners {
    /// Makes the listeners; without IPv6 in the namespace those for IPv4 only.
    pub(crate) fn open(netns: &Netns) -> io::Result<Self> {
        netns.run(|| {
            let mut listeners = Self {
                egress: Vec::new(),
                ingress: Vec::new(),
            };
            for loopback in [
                SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
            ] {
                match (listen(loopback, prepare_local), listen(loopback, prepare)) {
                    (Ok(egress), Ok(ingress)) => {
                        listeners.egress.push(egress);
                        listeners.ingress.push(ingress);
                    }
                    (Err(error), _) | (_, Err(error))
                        if loopback.is_ipv6() && lacks_ipv6(&error) => {}
                    (Err(error), _) | (_, Err(error)) => return Err(error),
                }
            }
            Ok(listeners)
        })
    }

    /// The same sockets once more.
    pub(crate) fn share(&self) -> io::Result<Vec<(Purpose, TcpListener)>> {
        let egress = self.egress.iter().map(|it| (Purpose::Egress, it));
        let ingress = self.ingress.iter().map(|it| (Purpose::Ingress, it));
        let all = egress.chain(ingress);
        all.map(|(purpose, it)| Ok((purpose, it.try_clone()?)))
            .collect()
    }

    /// The port of the egress listener of this family, if there is one.
    pub(crate) fn egress_port(&self, ipv6: bool) -> Option<u16> {
        self.egress
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .find(|address| address.is_ipv6() == ipv6)
            .map(|address| address.port())
    }
}

/// Listens at the addresses that the configuration names, beside other workers.
pub(crate) fn listen_at(
    netns: &Netns,
    addresses: &[SocketAddrV4],
) -> Result<Vec<NamedSocket>, ListenError> {
    let mut taken = None;
    let opened = netns.run(|| {
        let open = |listen: &SocketAddrV4| {
            let socket = listen_beside(*listen).inspect_err(|error| {
                if error.kind() == io::ErrorKind::AddrInUse {
                    taken = Some(*listen);
                }
            })?;
            Ok(NamedSocket {
                listen: *listen,
                socket,
            })
        };
        addresses.iter().map(open).collect()
    });
    opened.map_err(|error| taken.map_or(ListenError::System(error), ListenError::Taken))
}

/// Prepares a socket of the agent's so that it can only ever end in one of two ways: orderly, which
/// the relay declares at the end, or by a reset, whatever happens to the agent before.
///
/// Options that accepted sockets inherit from their listener.
pub(crate) fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL),
    )
}

/// As [`prepare`], for a socket towards a program on the same machine.
///
/// Nothing is lost there, and a congestion control that paces (BBR) would only slow it down.
pub(crate) fn prepare_local(socket: &Socket) -> io::Result<()> {
    prepare(socket)?;
    socket.set_tcp_congestion(b"reno")
}

/// A peer that vanished is found after about four minutes (with the kernel's nine probes), rather
/// than never.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Every worker has a listener of its own at the address.
fn listen_beside(address: SocketAddrV4) -> io::Result<TcpListener> {
    listen(address.into(), |socket| {
        socket.set_reuse_port(true)?;
        prepare_local(socket)
    })
}

fn listen(address: SocketAddr, prepare: fn(&Socket) -> io::Result<()>) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Accepted sockets count as bound to the port they were meant for: without this, a server could
    // not bind its port again while a connection to it is open.
    socket.set_reuse_address(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from(OwnedFd::from(socket)))
}

fn lacks_ipv6(error: &io::Error) -> bool {
    [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}
