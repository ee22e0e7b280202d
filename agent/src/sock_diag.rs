//! The kernel's own list of TCP sockets, and the end of some of them.
//!
//! Layouts: `linux/inet_diag.h`, `sock_diag(7)`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::{errno::Errno, sys::socket::SockProtocol};

use crate::netlink::{HEADER, attributes, exchange, malformed, u32_at, u64_at};

/// Which sockets are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those with a peer, connected or about to be.
    Connections,
    /// Those that wait for one.
    Listeners,
}

/// The sockets in the calling thread's namespace that a program has, or had.
///
/// Not what the kernel alone has, which has no cgroup: a connection that waits for the last segment of
/// its handshake, and one that waits for its peer's end and that no program can reach any more. The hooks
/// judge the former when it is one.
///
/// Minimum kernel version: 5.9 (`INET_DIAG_CGROUP_ID`).
pub(crate) fn list(which: Which) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for family in [IPV4, IPV6] {
        let request = Request::list(family, which);
        exchange(
            SockProtocol::NetlinkSockDiag,
            &request.bytes(),
            |_, message| {
                if !is_kernels(message) {
                    found.push(Found::parse(message).ok_or_else(malformed)?);
                }
                Ok(())
            },
        )?;
    }
    Ok(found)
}

/// Resets a connection; whether it was still there.
///
/// # Errors
/// Where the kernel has no `CONFIG_INET_DIAG_DESTROY`.
pub(crate) fn reset(socket: &Found) -> io::Result<bool> {
    let request = Request::destroy(socket);
    match exchange(SockProtocol::NetlinkSockDiag, &request.bytes(), |_, _| {
        Ok(())
    }) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `struct inet_diag_msg`, as far as it counts.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    family: u8,
    /// `struct inet_diag_sockid`.
    id: [u8; ID],
    /// Its own address.
    pub local: IpAddr,
    /// Its own port.
    pub port: u16,
    /// Its peer's address.
    pub peer: IpAddr,
    /// What its file is called; zero where no process has it, yet or any more.
    pub inode: u32,
    /// The cgroup in which it was made; that of its listener, where it came by one.
    pub cgroup: u64,
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
            cgroup: attributes(message.get(MESSAGE..)?)
                .find(|(attribute, _)| *attribute == INET_DIAG_CGROUP_ID)
                .and_then(|(_, value)| u64_at(value, 0))?,
            id,
        })
    }
}

/// Whether the message is about what is no whole socket: `inet_req_diag_fill`, `inet_twsk_diag_fill`.
fn is_kernels(message: &[u8]) -> bool {
    let state = message.get(1).copied();
    let has_cgroup = message
        .get(MESSAGE..)
        .is_some_and(|rest| attributes(rest).any(|(kind, _)| kind == INET_DIAG_CGROUP_ID));
    !has_cgroup && matches!(state, Some(SYN_RECV | FIN_WAIT2))
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
    fn list(family: u8, which: Which) -> Self {
        Self {
            kind: SOCK_DIAG_BY_FAMILY,
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            family,
            states: match which {
                Which::Connections => WITH_A_PEER,
                Which::Listeners => LISTEN,
            },
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
/// Bytes of `struct inet_diag_msg`; attributes follow it.
const MESSAGE: usize = INODE + 4;
/// Of an attribute.
const INET_DIAG_CGROUP_ID: u16 = 21;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;

const SYN_RECV: u8 = 3;
const FIN_WAIT2: u8 = 5;
/// The state `LISTEN`.
const LISTEN: u32 = 1 << 10;
/// Every state of TCP but that, `TIME_WAIT` (6) and `CLOSE` (7), in which nothing is sent.
const WITH_A_PEER: u32 = 0xfff & !(LISTEN | 1 << 6 | 1 << 7);

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Vec<u8> {
        let mut message = vec![0; MESSAGE];
        message[0] = IPV4;
        message[4..6].copy_from_slice(&8080_u16.to_be_bytes());
        message[8..12].copy_from_slice(&[10, 0, 0, 1]);
        message[24..28].copy_from_slice(&[10, 0, 0, 2]);
        message[INODE..].copy_from_slice(&7_u32.to_ne_bytes());
        // Another attribute before it, of a length that is filled up.
        for (kind, value) in [(8_u16, &[1][..]), (21, &4711_u64.to_ne_bytes())] {
            message.extend((4 + value.len() as u16).to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        message
    }

    #[test]
    fn a_socket_is_read_with_the_cgroup_that_it_was_made_in() {
        let found = Found::parse(&message()).unwrap();
        assert_eq!((found.port, found.inode, found.cgroup), (8080, 7, 4711));
        assert_eq!(found.local.to_string(), "10.0.0.1");
        assert_eq!(found.peer.to_string(), "10.0.0.2");
    }

    #[test]
    fn what_no_program_has_is_passed_over_and_nothing_else() {
        let whole = message();
        let without_cgroup = &whole[..MESSAGE + 8];
        assert!(Found::parse(without_cgroup).is_none());
        for state in 1..=12 {
            let mut message = without_cgroup.to_vec();
            message[1] = state;
            assert_eq!(is_kernels(&message), [SYN_RECV, FIN_WAIT2].contains(&state));
            let mut message = whole.clone();
            message[1] = state;
            assert!(!is_kernels(&message), "{state}");
        }
    }

    #[test]
    fn an_answer_cut_short_anywhere_is_no_panic() {
        let message = message();
        for len in 0..message.len() {
            assert!(Found::parse(&message[..len]).is_none());
        }
    }

    #[test]
    fn an_attribute_that_claims_no_length_ends_the_look() {
        let mut message = message();
        message[MESSAGE..MESSAGE + 2].copy_from_slice(&0_u16.to_ne_bytes());
        assert!(Found::parse(&message).is_none());
    }
}
