//! The guard: no TCP segment that carries anything leaves the workload's network namespace, unless
//! it comes from a permitted socket.
//!
//! Steering alone would miss raw sockets, subflows that the kernel opens by itself, sockets made
//! before their process joined the workload's cgroup, connections older than the agent. The guard
//! asks nothing about how a socket came to be, only whether it is in [`PERMITTED`]. It sits
//! at `cgroup_skb/egress` of the workload's cgroup (its sockets in whatever namespace) and, where the
//! namespace is the workload's alone, at the egress of each of its devices (every socket in it, of
//! whatever cgroup).
//!
//! Where it is not, the way in is guarded as well, at `cgroup_skb/ingress`: `sk_lookup` steers what
//! comes for ports that the workload is known to listen on, and what else reaches a socket of the
//! workload's must not open a connection.
//!
//! Datagrams are let out and counted, unless the workload may send none.
//!
//! Minimum kernel version: 5.2; on a device as a clsact filter, from 6.6 on as a tcx link.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::bpf_sk_fullsock,
    macros::{cgroup_skb, classifier},
    programs::{SkBuffContext, TcContext},
};
use ebpf_abi::{Counter, Direction, KernelRefusal};

use crate::{
    context::{IPPROTO_TCP, read},
    maps::{PERMITTED, UDP_DENIED},
    object::{shares_netns, workload},
    packet::{Packet, parse},
    ports::is_plaintext,
    refuse::{admit, count, record},
    shared_netns::stays_inside,
};

#[cgroup_skb(egress)]
fn guard_cgroup(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the program's context.
    if unsafe { read!((*skb).ifindex) } == LOOPBACK_IFINDEX || passes::<false>(skb) {
        1
    } else {
        0
    }
}

#[classifier]
fn guard_device(ctx: TcContext) -> i32 {
    if passes::<true>(ctx.as_ptr().cast()) {
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

/// Only where the workload shares its namespace.
#[cgroup_skb(ingress)]
fn guard_ingress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let Packet::Tcp {
        from,
        to,
        opens: true,
        ..
    } = parse(skb)
    else {
        return 1;
    };
    let is_admitted = stays_inside(from, to) || is_plaintext(to.port) && admit().is_ok();
    // A raw socket is given copies of what others are sent.
    if is_admitted || !is_for_tcp(skb) {
        return 1;
    }
    record(KernelRefusal::NotSteered, Direction::Ingress, from, to);
    0
}

const LOOPBACK_IFINDEX: u32 = 1;

#[inline(always)]
fn passes<const AT_DEVICE: bool>(skb: *mut __sk_buff) -> bool {
    match parse(skb) {
        Packet::Udp { from, to, .. } => {
            if UDP_DENIED.get_ptr(workload()).is_some() && !is_permitted(skb) {
                record(KernelRefusal::UdpDenied, Direction::Egress, from, to);
                return false;
            }
            // Once: what leaves the workload's cgroup leaves by a guarded device as well, if any is.
            if AT_DEVICE || shares_netns() {
                count(Counter::UdpDatagrams);
            }
            true
        }
        Packet::Other => true,
        Packet::Tcp {
            from, to, carries, ..
        } => {
            if !carries || is_permitted(skb) {
                return true;
            }
            record(KernelRefusal::UnsealedSegment, Direction::Egress, from, to);
            false
        }
    }
}

#[inline(always)]
fn is_permitted(skb: *mut __sk_buff) -> bool {
    // SAFETY: the program's context; each pointer is tested for null before it is used.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        let sk = bpf_sk_fullsock(sk);
        !sk.is_null() && !PERMITTED.of(sk.cast()).is_null()
    }
}

/// Whether the socket that gets the packet is one of TCP, or can't be told from one.
#[inline(always)]
fn is_for_tcp(skb: *mut __sk_buff) -> bool {
    // SAFETY: as above.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return true;
        }
        let sk = bpf_sk_fullsock(sk);
        sk.is_null() || read!((*sk).protocol) == IPPROTO_TCP
    }
}
