//! What a stored descriptor is called, and whether it is what its name says.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
};

use socket2::{Domain, Protocol, SockRef, Type};
use thiserror::Error;

use crate::{
    bpf::netns_cookie,
    inherited::{Item, Purpose, Whose},
    listen::prepare,
};

/// Which listener a descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) item: Item,
    family: Family,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Why a stored descriptor is of no use.
#[derive(Debug, Error)]
pub(super) enum Misfit {
    /// It was not stored by an agent, or by one that calls things otherwise.
    #[error("its name is not one of this agent's")]
    Name,
    /// The maps know nothing of the connections that wait there.
    #[error("it is of an agent with other eBPF maps ({0})")]
    Maps(String),
    /// The same name has come before.
    #[error("its name has come twice")]
    Twice,
    /// It is no socket, or can't be asked.
    #[error("it is no listener that can be used: {0}")]
    NoListener(io::Error),
    /// It is a socket of another kind.
    #[error("it is no listener for TCP of the family that its name says")]
    Kind,
    /// It listens elsewhere.
    #[error("it listens at {0}, which is not where its name says")]
    Address(SocketAddr),
    /// It is not the workload's.
    #[error("it is in another network namespace than its workload")]
    Namespace,
}

impl Label {
    /// That of a listener of a workload; `None` for what is not stored.
    ///
    /// The lock is not: it ends with its process, or a crashed agent would keep its successor out. Nor is
    /// the admin port, where nothing is lost by asking again.
    pub(super) fn of(item: &Item, descriptor: &OwnedFd) -> Option<Self> {
        let Item::Listener { .. } = item else {
            return None;
        };
        let address = SockRef::from(descriptor).local_addr().ok()?;
        let family = match address.as_socket()? {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        };
        Some(Self {
            item: item.clone(),
            family,
        })
    }

    /// `egress4.0.web.4711.4099.0123456789abcdef`: purpose, worker, workload, cgroup, namespace, version of the eBPF maps.
    /// Neither colons nor control characters, and shorter than 255 bytes, as `sd_notify(3)` asks.
    pub(super) fn name(&self, maps: &str) -> String {
        let Item::Listener {
            workload: Whose { name, id, netns },
            worker,
            purpose,
        } = &self.item
        else {
            return String::new();
        };
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        let purpose = match purpose {
            Purpose::Egress => format!("egress{family}"),
            Purpose::Ingress => format!("ingress{family}"),
            Purpose::Named(listen) => format!("{}-{}", listen.ip(), listen.port()),
        };
        format!("{purpose}.{worker}.{name}.{id}.{netns}.{maps}")
    }

    /// Reads a name; `maps` is the version that it must have.
    pub(super) fn parse(name: &str, maps: &str) -> Result<Self, Misfit> {
        // From the end: an address has dots, too.
        let mut parts = name.rsplitn(6, '.');
        let mut next = || parts.next().ok_or(Misfit::Name);
        let (of_maps, netns, id, workload, worker, purpose) =
            (next()?, next()?, next()?, next()?, next()?, next()?);
        let (purpose, family) = parse_purpose(purpose)?;
        let label = Self {
            item: Item::Listener {
                workload: Whose {
                    name: workload.to_owned(),
                    id: id.parse().map_err(|_| Misfit::Name)?,
                    netns: netns.parse().map_err(|_| Misfit::Name)?,
                },
                worker: worker.parse().map_err(|_| Misfit::Name)?,
                purpose,
            },
            family,
        };
        if of_maps != maps {
            return Err(Misfit::Maps(of_maps.to_owned()));
        }
        // One name for one thing: `+1` and `01` are numbers as well.
        if label.name(maps) == name {
            Ok(label)
        } else {
            Err(Misfit::Name)
        }
    }

    /// Whether the descriptor is what its name says. What of it can't be seen is set anew.
    pub(super) fn check(&self, descriptor: &OwnedFd) -> Result<(), Misfit> {
        let Item::Listener {
            workload, purpose, ..
        } = &self.item
        else {
            return Err(Misfit::Name);
        };
        let socket = SockRef::from(descriptor);
        let domain = socket.domain().map_err(Misfit::NoListener)?;
        let wanted = match self.family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let is_tcp = || -> io::Result<bool> {
            Ok(domain == wanted
                && socket.r#type()? == Type::STREAM
                && socket.protocol()? == Some(Protocol::TCP)
                && socket.is_listener()?
                && (domain == Domain::IPV4 || socket.only_v6()?))
        };
        if !is_tcp().map_err(Misfit::NoListener)? {
            return Err(Misfit::Kind);
        }
        let address = socket.local_addr().map_err(Misfit::NoListener)?;
        let address = address.as_socket().ok_or(Misfit::Kind)?;
        let is_there = match purpose {
            Purpose::Named(listen) => address == SocketAddr::from(*listen),
            Purpose::Egress | Purpose::Ingress => {
                [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].contains(&address.ip())
            }
        };
        if !is_there {
            return Err(Misfit::Address(address));
        }
        if netns_cookie(&*socket).map_err(Misfit::NoListener)? != workload.netns {
            return Err(Misfit::Namespace);
        }
        socket
            .set_nonblocking(true)
            .and_then(|()| prepare(&socket))
            .map_err(Misfit::NoListener)
    }
}

fn parse_purpose(text: &str) -> Result<(Purpose, Family), Misfit> {
    Ok(match text {
        "egress4" => (Purpose::Egress, Family::V4),
        "egress6" => (Purpose::Egress, Family::V6),
        "ingress4" => (Purpose::Ingress, Family::V4),
        "ingress6" => (Purpose::Ingress, Family::V6),
        address => {
            let (ip, port) = address.split_once('-').ok_or(Misfit::Name)?;
            let ip = ip.parse().map_err(|_| Misfit::Name)?;
            let port = port.parse().map_err(|_| Misfit::Name)?;
            (Purpose::Named(SocketAddrV4::new(ip, port)), Family::V4)
        }
    })
}
