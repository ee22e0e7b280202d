//! What serving a connection takes of the kernel side: asked for by socket options of our own, which
//! programs on the agent's cgroup answer. None of it is a call of bpf(2).

use std::{
    io,
    net::SocketAddr,
    os::{fd::AsFd, unix::net::UnixDatagram},
    time::Duration,
};

use aws_lc_rs::rand;
use aya::maps::{Array, MapData};
use ebpf_abi::{
    DestinationKey, FlowKey, ForgetClientRequest, NameClientRequest, OriginalDestination,
    PermitRequest, RefuseRequest, SocketOption, Token, WorkloadId,
};
use tokio::net::TcpStream;

use super::{
    BpfError, Pins,
    local_hops::{Acceleration, LocalHops, WhyTcp},
    maps::{full, monotonic_ns, open},
    sys::{option, set_option},
};

/// What a worker asks of the hooks for each connection.
#[derive(Debug)]
pub struct ConnectionHooks {
    permits: Permits,
    /// What is not about one socket is asked for on this one, for which alone it is open.
    asking: UnixDatagram,
    local_hops: Result<LocalHops, WhyTcp>,
}

impl ConnectionHooks {
    /// With the maps of local acceleration as well, where there is any. To be called by a process in
    /// the cgroup that [`super::Steering::attach_agent`] was given.
    ///
    /// # Errors
    /// Where a map of local acceleration can't be opened, or there is no descriptor left.
    pub fn open(
        pins: &Pins,
        permits: Permits,
        acceleration: Result<&Acceleration, WhyTcp>,
    ) -> Result<Self, BpfError> {
        let local_hops = match acceleration {
            Ok(acceleration) => Ok(LocalHops::open(pins, acceleration)?),
            Err(why) => Err(why),
        };
        Ok(Self {
            permits,
            asking: UnixDatagram::unbound().map_err(BpfError::AskingSocket)?,
            local_hops,
        })
    }

    /// Where the program on the other end of this accepted socket wanted to go; `None` for a
    /// connection that the connect hook has not turned here.
    pub fn original_destination(&self, socket: &impl AsFd) -> Option<OriginalDestination> {
        option(socket, SocketOption::OriginalDestination).ok()
    }

    /// Whether local hops are accelerated at all.
    ///
    /// # Errors
    /// Why not.
    pub fn acceleration(&self) -> Result<(), WhyTcp> {
        self.local_hops.as_ref().map(|_| ()).map_err(|why| *why)
    }

    /// Lets the kernel hand what the program on the other end of this accepted socket sends straight
    /// to it, past the loopback's TCP. To be called on a thread in their namespace.
    ///
    /// # Errors
    /// Why everything goes through TCP instead.
    pub fn accelerate(&mut self, socket: &TcpStream) -> Result<(), WhyTcp> {
        let original = self.original_destination(socket);
        match &mut self.local_hops {
            Ok(hops) => hops.accelerate(socket, original.ok_or(WhyTcp::NotLocal)?.hop),
            Err(why) => Err(*why),
        }
    }

    /// Lets the segments of this socket leave its namespace.
    ///
    /// # Errors
    /// As [`Permits::permit`].
    pub fn permit(&self, socket: &impl AsFd) -> io::Result<()> {
        self.permits.permit(socket)
    }

    /// Publishes that the connection about to be opened from `key` comes from `client`.
    ///
    /// # Errors
    /// Where the table is full, or no hook answers.
    pub fn name_client(&self, key: FlowKey, client: SocketAddr) -> io::Result<()> {
        let request = NameClientRequest {
            token: self.permits.token,
            key,
            client: client.into(),
            reserved: 0,
        };
        set_option(&self.asking, SocketOption::NameClient, &request)
    }

    /// Withdraws what [`Self::name_client`] published, where the kernel has not already.
    pub fn forget_client(&self, key: FlowKey) {
        let request = ForgetClientRequest {
            token: self.permits.token,
            key,
        };
        let _ = set_option(&self.asking, SocketOption::ForgetClient, &request);
    }

    /// Makes the workload's next `connect()` to `destination` fail at once, for `lifetime`.
    pub fn refuse(&self, workload: WorkloadId, destination: SocketAddr, lifetime: Duration) {
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

/// The right to let sockets past the guard.
#[derive(Clone, Copy, Debug)]
pub struct Permits {
    token: Token,
}

impl Permits {
    /// The instance's, by the token that its first agent has drawn.
    pub(super) fn of_instance(pins: &Pins) -> Result<Self, BpfError> {
        const MAP: &str = "TOKEN";
        let mut map: Array<MapData, Token> = open(pins, MAP)?;
        let mut token = map.get(&0, 0).map_err(full(MAP))?;
        if token.is_unset() {
            token = draw()?;
            map.set(0, token, 0).map_err(full(MAP))?;
        }
        Ok(Self { token })
    }

    /// Lets this socket send in its namespace.
    ///
    /// # Errors
    /// Where no hook answers, as the socket is not of the agent's cgroup, or the kernel has no memory
    /// for the mark: the guard then drops what the socket sends.
    pub fn permit(&self, socket: &impl AsFd) -> io::Result<()> {
        let request = PermitRequest { token: self.token };
        set_option(socket, SocketOption::Permit, &request)
    }
}

fn draw() -> Result<Token, BpfError> {
    let mut bytes = [[0; 8]; 2];
    rand::fill(bytes.as_flattened_mut()).map_err(|_| BpfError::NoRandomness)?;
    Ok(Token(bytes.map(u64::from_ne_bytes)))
}
