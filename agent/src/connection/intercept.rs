use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use tokio::net::TcpStream;

use super::{
    Door,
    refusal::{Cause, Refusal, RefusalReason},
};
use crate::{bpf::Tenancy, policy::Direction, socket_options::original_destination};

/// A connection that the kernel brought to the agent, with where it comes from and goes to.
#[derive(Debug)]
pub(super) struct Intercepted {
    pub(super) stream: TcpStream,
    pub(super) ends: Ends,
    pub(super) since: Instant,
    /// The socket towards the destination, where it had to be connected first.
    pub(super) dialled: Option<TcpStream>,
}

/// The two ends of a connection as its programs take them to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Whether `from` is an address that the connection can be continued from.
    pub(super) from_is_own: bool,
}

impl Intercepted {
    /// Reads what the kernel knows of an accepted connection.
    pub(super) fn read(stream: TcpStream, door: &Door) -> Result<Self, Refusal> {
        let since = Instant::now();
        let accepted = Accepted::of(&stream).map_err(|error| {
            let reason = RefusalReason::NoOriginalDestination;
            Cause::new(reason, format!("reading the socket's addresses: {error}"))
                .between(None, None)
        })?;
        let ends = match door.direction {
            Direction::Egress => egress(&stream, door),
            Direction::Ingress => ingress(accepted, door),
        };
        match ends {
            Ok(ends) => Ok(Self {
                stream,
                ends,
                since,
                dialled: None,
            }),
            Err(cause) => Err(cause.between(Some(accepted.peer), Some(accepted.local))),
        }
    }
}

/// The addresses of the accepted socket itself.
#[derive(Clone, Copy)]
struct Accepted {
    peer: SocketAddr,
    local: SocketAddr,
}

impl Accepted {
    fn of(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self {
            peer: canonical(stream.peer_addr()?),
            local: canonical(stream.local_addr()?),
        })
    }
}

fn egress(stream: &TcpStream, door: &Door) -> Result<Ends, Cause> {
    let Some(original) = original_destination(stream) else {
        return Err(Cause::new(
            RefusalReason::NoOriginalDestination,
            "the connect hook has not turned this connection here: the program dialled the \
             agent's own listener, or the table of flows was full",
        ));
    };
    if original.workload != door.workload.id {
        let detail = format!(
            "turned by the hook of workload {}, accepted for {}",
            original.workload.0, door.workload.id.0
        );
        return Err(Cause::new(RefusalReason::WrongWorkload, detail));
    }
    let source = SocketAddr::from(original.source);
    Ok(Ends {
        from: source,
        to: original.destination.into(),
        from_is_own: !source.ip().is_unspecified() && source.port() != 0,
    })
}

fn ingress(accepted: Accepted, door: &Door) -> Result<Ends, Cause> {
    let Accepted {
        peer: from,
        local: to,
    } = accepted;
    let is_within = match door.workload.tenancy {
        Tenancy::Sole => to.ip() == from.ip() || to.ip().is_loopback(),
        // Another program of the machine is a client as any other, unless it dials the listener.
        Tenancy::Shared => door.listens_at.contains(&to),
    };
    if is_within {
        return Err(Cause::new(
            RefusalReason::OwnAddressLoop,
            "a connection within the namespace reached the ingress listener: its addresses have \
             just changed, or the program dialled the listener itself",
        ));
    }
    Ok(Ends {
        from,
        to,
        from_is_own: false,
    })
}

/// IPv4 as IPv4, also where it came in its mapped form.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => SocketAddr::new(ip.to_canonical(), address.port()),
    }
}
