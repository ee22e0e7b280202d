//! Reading and writing what the kernel hands to a program.

use aya_ebpf::{
    bindings::{bpf_sk_lookup, bpf_sock_addr, bpf_sock_ops},
    helpers::generated::bpf_get_netns_cookie,
};
use ebpf_abi::{Endpoint, FlowKey};

/// `AF_INET`.
pub(crate) const AF_INET: u32 = 2;
/// `IPPROTO_TCP`.
pub(crate) const IPPROTO_TCP: u32 = 6;
/// `IPPROTO_UDP`.
pub(crate) const IPPROTO_UDP: u32 = 17;
/// `IPPROTO_UDPLITE`.
pub(crate) const IPPROTO_UDPLITE: u32 = 136;
/// `IPPROTO_MPTCP`, with which a multipath socket is created.
pub(crate) const IPPROTO_MPTCP: u32 = 262;
/// `SOCK_STREAM`.
pub(crate) const SOCK_STREAM: u32 = 1;

/// Reads one field of a context.
///
/// Volatile, each on its own: LLVM otherwise merges loads into one through a computed pointer
/// ("dereference of modified ctx ptr disallowed").
macro_rules! read {
    ($place:expr) => {
        core::ptr::read_volatile(core::ptr::addr_of!($place))
    };
}
pub(crate) use read;

/// Writes one field of a context.
///
/// Volatile: LLVM otherwise fuses neighbouring writes into one of eight bytes ("invalid bpf_context
/// access").
macro_rules! write {
    ($place:expr, $value:expr) => {
        core::ptr::write_volatile(core::ptr::addr_of_mut!($place), $value)
    };
}

macro_rules! read_ipv6 {
    ($place:expr) => {
        [
            read!($place[0]),
            read!($place[1]),
            read!($place[2]),
            read!($place[3]),
        ]
    };
}

/// The IPv4 endpoint that a `sock_addr` context carries.
///
/// # Safety
/// `address` is the program's context, of a hook for IPv4.
#[inline(always)]
pub(crate) unsafe fn endpoint_v4(address: *mut bpf_sock_addr) -> Endpoint {
    // SAFETY: the caller's.
    unsafe {
        Endpoint::v4(
            read!((*address).user_ip4),
            port(read!((*address).user_port)),
        )
    }
}

/// The IPv6 endpoint that a `sock_addr` context carries.
///
/// # Safety
/// `address` is the program's context, of a hook for IPv6.
#[inline(always)]
pub(crate) unsafe fn endpoint_v6(address: *mut bpf_sock_addr) -> Endpoint {
    // SAFETY: the caller's.
    unsafe {
        Endpoint::v6(
            read_ipv6!((*address).user_ip6),
            port(read!((*address).user_port)),
        )
    }
}

/// Replaces the IPv4 endpoint that a `sock_addr` context carries.
///
/// # Safety
/// As [`endpoint_v4`].
#[inline(always)]
pub(crate) unsafe fn set_endpoint_v4(address: *mut bpf_sock_addr, endpoint: Endpoint) {
    // SAFETY: the caller's.
    unsafe {
        write!((*address).user_ip4, endpoint.ip[3]);
        write!(
            (*address).user_port,
            u32::from((endpoint.port as u16).to_be())
        );
    }
}

/// Replaces the IPv6 endpoint that a `sock_addr` context carries.
///
/// # Safety
/// As [`endpoint_v6`].
#[inline(always)]
pub(crate) unsafe fn set_endpoint_v6(address: *mut bpf_sock_addr, endpoint: Endpoint) {
    // SAFETY: the caller's.
    unsafe {
        write!((*address).user_ip6[0], endpoint.ip[0]);
        write!((*address).user_ip6[1], endpoint.ip[1]);
        write!((*address).user_ip6[2], endpoint.ip[2]);
        write!((*address).user_ip6[3], endpoint.ip[3]);
        write!(
            (*address).user_port,
            u32::from((endpoint.port as u16).to_be())
        );
    }
}

/// The own end of a `sock_ops` context's socket.
///
/// # Safety
/// `ops` is the program's context.
#[inline(always)]
pub(crate) unsafe fn own_end(ops: *mut bpf_sock_ops) -> Endpoint {
    // SAFETY: the caller's.
    unsafe {
        either(
            read!((*ops).family),
            read!((*ops).local_ip4),
            read_ipv6!((*ops).local_ip6),
            read!((*ops).local_port),
        )
    }
}

/// The other end of a `sock_ops` context's socket.
///
/// # Safety
/// `ops` is the program's context.
#[inline(always)]
pub(crate) unsafe fn peers_end(ops: *mut bpf_sock_ops) -> Endpoint {
    // SAFETY: the caller's.
    unsafe {
        either(
            read!((*ops).family),
            read!((*ops).remote_ip4),
            read_ipv6!((*ops).remote_ip6),
            u32::from_be(read!((*ops).remote_port)),
        )
    }
}

/// The flow that a `sock_ops` context's socket opened.
///
/// # Safety
/// `ops` is the program's context.
#[inline(always)]
pub(crate) unsafe fn own_flow(ops: *mut bpf_sock_ops) -> FlowKey {
    // SAFETY: the caller's.
    unsafe {
        let listener = u32::from_be(read!((*ops).remote_port));
        FlowKey::new(bpf_get_netns_cookie(ops.cast()), own_end(ops), listener)
    }
}

/// The flow that the peer of a `sock_ops` context's socket opened.
///
/// # Safety
/// `ops` is the program's context.
#[inline(always)]
pub(crate) unsafe fn peers_flow(ops: *mut bpf_sock_ops) -> FlowKey {
    // SAFETY: the caller's.
    unsafe {
        FlowKey::new(
            bpf_get_netns_cookie(ops.cast()),
            peers_end(ops),
            read!((*ops).local_port),
        )
    }
}

/// Where an incoming connection comes from and where it goes to.
///
/// # Safety
/// `lookup` is the program's context.
#[inline(always)]
pub(crate) unsafe fn ends(lookup: *mut bpf_sk_lookup) -> (Endpoint, Endpoint) {
    // SAFETY: the caller's.
    unsafe {
        let family = read!((*lookup).family);
        let from = either(
            family,
            read!((*lookup).remote_ip4),
            read_ipv6!((*lookup).remote_ip6),
            u32::from(u16::from_be(read!((*lookup).remote_port))),
        );
        let to = either(
            family,
            read!((*lookup).local_ip4),
            read_ipv6!((*lookup).local_ip6),
            read!((*lookup).local_port),
        );
        (from, to)
    }
}

/// The endpoint of this family.
///
/// Both addresses are read in any case and one is chosen afterwards: of two arms that each end in a
/// read, LLVM makes one read through a computed pointer, volatile or not.
#[inline(always)]
fn either(family: u32, v4: u32, v6: [u32; 4], port: u32) -> Endpoint {
    if family == AF_INET {
        Endpoint::v4(v4, port)
    } else {
        Endpoint::v6(v6, port)
    }
}

/// A port as `sock_addr` contexts hold it, in host byte order.
#[inline(always)]
fn port(user_port: u32) -> u32 {
    u32::from(u16::from_be(user_port as u16))
}
