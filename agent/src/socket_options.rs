//! What serving a connection takes of the kernel side: asked for by socket options of our own, which
//! programs on the agent's cgroup answer. None of it is a call of bpf(2).

use std::{
    io,
    net::SocketAddr,
    os::{fd::AsFd, unix::net::UnixDatagram},
    time::Duration,
};

use ebpf_abi::{
    BeatRequest, DestinationKey, FlowKey, ForgetClientRequest, NameClientRequest,
    OriginalDestination, PermitRequest, RefuseRequest, SocketOption, Token, WorkloadId,
};
use tokio::net::TcpStream;

use crate::{
    bpf::{WhyTcp, monotonic_ns, option, set_option},
    loader::LocalHops,
};

/// What a worker asks of the hooks for each connection.
#[derive(Debug)]
pub(crate) struct ConnectionHooks {
    permits: Permits,
    /// What is not about one socket is asked for on this one, for which alone it is open.
    asking: UnixDatagram,
    local_hops: Result<LocalHops, WhyTcp>,
}

impl ConnectionHooks {
    /// With a way to have local hops accelerated, where there is any. To be called by a process in the
    /// cgroup that [`attach_agent`](crate::bpf::Steering::attach_agent) was given.
    ///
    /// # Errors
    /// Where there is no descriptor left.
    pub(crate) fn new(permits: Permits, local_hops: Result<LocalHops, WhyTcp>) -> io::Result<Self> {
        Ok(Self {
            permits,
            asking: UnixDatagram::unbound()?,
            local_hops,
        })
    }

    /// Whether local hops are accelerated at all.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn acceleration(&self) -> Result<(), WhyTcp> {
        self.local_hops.as_ref().map(|_| ()).map_err(|why| *why)
    }

    /// Lets the kernel hand what the program on the other end of this accepted socket sends straight
    /// to it, past the loopback's TCP.
    ///
    /// # Errors
    /// Why everything goes through TCP instead.
    pub(crate) fn accelerate(&mut self, socket: &TcpStream) -> Result<(), WhyTcp> {
        let original = original_destination(socket);
        match &mut self.local_hops {
            Ok(hops) => hops.accelerate(socket, original.ok_or(WhyTcp::NotLocal)?.hop),
            Err(why) => Err(*why),
        }
    }

    /// Lets the segments of this socket leave its namespace.
    ///
    /// # Errors
    /// As [`Permits::permit`].
    pub(crate) fn permit(&self, socket: &impl AsFd) -> io::Result<()> {
        self.permits.permit(socket)
    }

    /// Publishes that the connection about to be opened from `key` comes from `client`.
    ///
    /// # Errors
    /// Where the table is full, or no hook answers.
    pub(crate) fn name_client(&self, key: FlowKey, client: SocketAddr) -> io::Result<()> {
        let request = NameClientRequest {
            token: self.permits.token,
            key,
            client: client.into(),
            reserved: 0,
        };
        set_option(&self.asking, SocketOption::NameClient, &request)
    }

    /// Withdraws what [`Self::name_client`] published, where the kernel has not already.
    pub(crate) fn forget_client(&self, key: FlowKey) {
        let request = ForgetClientRequest {
            token: self.permits.token,
            key,
        };
        let _ = set_option(&self.asking, SocketOption::ForgetClient, &request);
    }

    /// Makes the workload's next `connect()` to `destination` fail at once, for `lifetime`.
    pub(crate) fn refuse(&self, workload: WorkloadId, destination: SocketAddr, lifetime: Duration) {
        let request = RefuseRequest {
            token: self.permits.token,
            key: DestinationKey {
                workload,
                destination: destination.into(),
                reserved: 0,
            },
            until: monotonic_ns().saturating_add(lifetime.as_nanos() as u64),
        };
        // Without it the program sees a reset once more.
        let _ = set_option(&self.asking, SocketOption::Refuse, &request);
    }
}

/// Where the program on the other end of this accepted socket wanted to go; `None` for a
/// connection that the connect hook has not turned here.
pub(crate) fn original_destination(socket: &impl AsFd) -> Option<OriginalDestination> {
    option(socket, SocketOption::OriginalDestination).ok()
}

/// The right to let sockets past the guard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permits {
    token: Token,
}

impl Permits {
    /// That of an agent of the instance with this token.
    pub(crate) fn new(token: Token) -> Self {
        Self { token }
    }

    /// Lets this socket send in its namespace.
    ///
    /// # Errors
    /// Where no hook answers, as the socket is not of the agent's cgroup, or the kernel has no memory
    /// for the mark: the guard then drops what the socket sends.
    pub(crate) fn permit(&self, socket: &impl AsFd) -> io::Result<()> {
        let request = PermitRequest { token: self.token };
        set_option(socket, SocketOption::Permit, &request)
    }
}

/// The agent's sign of life to the hooks.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    permits: Permits,
    asking: UnixDatagram,
}

impl Heartbeat {
    /// That of an agent with this right; nothing is said yet.
    ///
    /// # Errors
    /// Where there is no descriptor left.
    pub(crate) fn new(permits: Permits) -> io::Result<Self> {
        let asking = UnixDatagram::unbound()?;
        Ok(Self { permits, asking })
    }

    /// Says that the agent is alive now.
    ///
    /// # Errors
    /// Where no hook answers.
    pub(crate) fn beat(&self) -> io::Result<()> {
        self.say(monotonic_ns())
    }

    /// Says that the agent is about to leave: what comes is refused from now on.
    ///
    /// # Errors
    /// As [`Self::beat`].
    pub(crate) fn stop(&self) -> io::Result<()> {
        self.say(0)
    }

    fn say(&self, at: u64) -> io::Result<()> {
        let request = BeatRequest {
            token: self.permits.token,
            at,
        };
        set_option(&self.asking, SocketOption::Beat, &request)
    }
}
