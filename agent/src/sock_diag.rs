//! Connections that the kernel has between programs and the network, past the agent: those to ports that
//! are in clear. Ends them when a port is so no longer.
//!
//! Layouts: `linux/inet_diag.h`, `sock_diag(7)`.

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::{errno::Errno, sys::socket::SockProtocol};

use crate::netlink::{HEADER, attributes, exchange, malformed, u32_at, u64_at};

/// Resets the connections of programs in the calling thread's namespace whose own port is one that
/// `ends`; how many. Those of the agent, those within the namespace and those that a program has opened
/// (they lead to the agent) are not meant; where `cgroups` are given, nor those of other cgroups.
///
/// # Errors
/// Where the kernel can't be asked, or has no `CONFIG_INET_DIAG_DESTROY`.
pub(crate) fn reset_connections(
    ends: impl Fn(u16) -> bool,
    cgroups: Option<&HashSet<u64>>,
) -> io::Result<usize> {
    let own = own_sockets()?;
    let mut found = Vec::new();
    for family in [IPV4, IPV6] {
        let request = Request::list(family);
        exchange(
            SockProtocol::NetlinkSockDiag,
            &request.bytes(),
            |_, message| {
                let socket = Found::parse(message).ok_or_else(malformed)?;
                let is_of_them = cgroups
                    .is_none_or(|cgroups| socket.cgroup.is_some_and(|id| cgroups.contains(&id)));
                if is_of_them
                    && ends(socket.port)
                    && socket.is_from_outside()
                    && !own.contains(&socket.inode)
                {
                    found.push(socket);
                }
                Ok(())
            },
        )?;
    }
    let mut reset = 0;
    for socket in found {
        let request = Request::destroy(&socket);
        match exchange(SockProtocol::NetlinkSockDiag, &request.bytes(), |_, _| {
            Ok(())
        }) {
            Ok(()) => reset += 1,
            // It has just ended by itself.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(reset)
}

/// The inodes of this process's sockets.
fn own_sockets() -> io::Result<HashSet<u32>> {
    let inode = |entry: io::Result<fs::DirEntry>| {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?;
        inode.strip_suffix(']')?.parse().ok()
    };
    Ok(fs::read_dir("/proc/self/fd")?.filter_map(inode).collect())
}

/// `struct inet_diag_msg`, as far as it counts.
#[derive(Debug)]
struct Found {
    family: u8,
    /// `struct inet_diag_sockid`.
    id: [u8; ID],
    port: u16,
    local: IpAddr,
    peer: IpAddr,
    inode: u32,
    /// The id of its cgroup.
    ///
    /// Minimum kernel version: 5.9 (`INET_DIAG_CGROUP_ID`).
    cgroup: Option<u64>,
}

impl Found {
    fn parse(message: &[u8]) -> Option<Self> {
        let family = *message.first()?;
        let id: [u8; ID] = message.get(4..4 + ID)?.try_into().ok()?;
        Some(Self {
            family,
            port: u16::from_be_bytes([id[0], id[1]]),
            local: address(family, id[4..20].try_into().ok()?),
            peer: address(family, id[20..36].try_into().ok()?),
            inode: u32_at(message, INODE)?,
            cgroup: attributes(message.get(INODE + 4..)?)
                .find(|(attribute, _)| *attribute == INET_DIAG_CGROUP_ID)
                .and_then(|(_, value)| u64_at(value, 0)),
            id,
        })
    }

    fn is_from_outside(&self) -> bool {
        !self.peer.is_loopback() && self.peer != self.local
    }
}

/// IPv4 as IPv4, also in its mapped form.
fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    if family == IPV4 {
        let [a, b, c, d, ..] = bytes;
        Ipv4Addr::new(a, b, c, d).into()
    } else {
        IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
    }
}

/// `struct inet_diag_req_v2`, about TCP, with its header.
struct Request {
    kind: u16,
    flags: u16,
    family: u8,
    states: u32,
    id: [u8; ID],
}

impl Request {
    fn list(family: u8) -> Self {
        Self {
            kind: SOCK_DIAG_BY_FAMILY,
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            family,
            states: WITH_A_PEER,
            id: [0; ID],
        }
    }

    fn destroy(socket: &Found) -> Self {
        Self {
            kind: SOCK_DESTROY,
            flags: NLM_F_REQUEST | NLM_F_ACK,
            family: socket.family,
            states: WITH_A_PEER,
            id: socket.id,
        }
    }

    fn bytes(&self) -> [u8; HEADER + REQUEST] {
        let mut bytes = [0; HEADER + REQUEST];
        bytes[..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.flags.to_ne_bytes());
        let message = &mut bytes[HEADER..];
        message[0] = self.family;
        message[1] = libc::IPPROTO_TCP as u8;
        message[4..8].copy_from_slice(&self.states.to_ne_bytes());
        message[8..].copy_from_slice(&self.id);
        bytes
    }
}

const IPV4: u8 = libc::AF_INET as u8;
const IPV6: u8 = libc::AF_INET6 as u8;

/// Bytes of `struct inet_diag_sockid`: ports, addresses, device, cookie.
const ID: usize = 48;
/// Bytes of `struct inet_diag_req_v2`.
const REQUEST: usize = 8 + ID;
/// Where `idiag_inode` lies in `struct inet_diag_msg`.
const INODE: usize = 4 + ID + 16;

const INET_DIAG_CGROUP_ID: u16 = 21;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;

/// Every state of TCP but `LISTEN` (10), `TIME_WAIT` (6) and `CLOSE` (7), in which nothing is sent.
const WITH_A_PEER: u32 = 0xfff & !(1 << 10 | 1 << 6 | 1 << 7);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cut_short_anywhere_is_no_panic() {
        let mut message = vec![0; INODE + 4];
        message[0] = IPV4;
        message[4..6].copy_from_slice(&8080_u16.to_be_bytes());
        message[8..12].copy_from_slice(&[10, 0, 0, 1]);
        message[24..28].copy_from_slice(&[10, 0, 0, 2]);
        message[INODE..].copy_from_slice(&7_u32.to_ne_bytes());
        let found = Found::parse(&message).unwrap();
        assert_eq!((found.port, found.inode), (8080, 7));
        assert_eq!(found.local.to_string(), "10.0.0.1");
        assert!(found.is_from_outside());
        assert_eq!(found.cgroup, None);
        for len in 0..message.len() {
            assert!(Found::parse(&message[..len]).is_none());
        }
        message.extend(12_u16.to_ne_bytes());
        message.extend(INET_DIAG_CGROUP_ID.to_ne_bytes());
        message.extend(77_u64.to_ne_bytes());
        assert_eq!(Found::parse(&message).unwrap().cgroup, Some(77));
        for len in INODE + 4..message.len() {
            assert_eq!(Found::parse(&message[..len]).unwrap().cgroup, None);
        }
    }

    #[test]
    fn connections_within_a_namespace_are_not_meant() {
        for (local, peer) in [
            ("127.0.0.1", "127.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
        ] {
            let found = Found {
                family: IPV4,
                id: [0; ID],
                port: 80,
                local: local.parse().unwrap(),
                peer: peer.parse().unwrap(),
                inode: 1,
                cgroup: None,
            };
            assert!(!found.is_from_outside(), "{local} {peer}");
        }
    }
}
