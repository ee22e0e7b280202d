//! `cgroup/connect4` and `cgroup/connect6`: a connection that would leave the namespace goes to the
//! agent's egress listener on the loopback instead.
//!
//! Minimum kernel version: 5.18 (`bpf_set_retval`); 6.1 for `SO_REUSEADDR` by `bpf_setsockopt`.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_set_retval, bpf_setsockopt},
    macros::cgroup_sock_addr,
    maps::lpm_trie::Key,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use ebpf_abi::{
    AddressKey, Counter, DestinationKey, Direction, Endpoint, KernelRefusal, MAX_WORKERS,
    OriginalDestination,
};

use crate::{
    context::{
        IPPROTO_MPTCP, IPPROTO_TCP, SOCK_STREAM, endpoint_v4, endpoint_v6, read, set_endpoint_v4,
        set_endpoint_v6,
    },
    local_hop,
    maps::{ADDRESSES, ORIGINALS, REFUSED},
    object::{shares_netns, workload},
    refuse::{admit, count, now, record},
    shared_netns::is_programs,
};

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context of a hook for IPv4.
    let destination = unsafe { endpoint_v4(ctx.sock_addr) };
    match steer(&ctx, destination) {
        Steered::Untouched => PASS,
        Steered::To(listener) => {
            // SAFETY: as above.
            unsafe { set_endpoint_v4(ctx.sock_addr, listener) };
            PASS
        }
        Steered::Refused => refuse(),
    }
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context of a hook for IPv6.
    let destination = unsafe { endpoint_v6(ctx.sock_addr) };
    match steer(&ctx, destination) {
        Steered::Untouched => PASS,
        Steered::To(listener) => {
            // SAFETY: as above.
            unsafe { set_endpoint_v6(ctx.sock_addr, listener) };
            PASS
        }
        Steered::Refused => refuse(),
    }
}

/// What becomes of a `connect()`.
enum Steered {
    /// Not TCP, or it stays within the namespace; where that is shared, on the loopback or within the
    /// workload.
    Untouched,
    /// It goes to this listener of the agent.
    To(Endpoint),
    /// It fails.
    Refused,
}

const PASS: i32 = 1;
const ECONNREFUSED: i32 = 111;

/// Makes the program's `connect()` return ECONNREFUSED.
#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: sets this hook's return value.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    0
}

#[inline(always)]
fn steer(ctx: &SockAddrContext, destination: Endpoint) -> Steered {
    if !is_tcp(ctx.sock_addr) {
        return Steered::Untouched;
    }
    // SAFETY: the context's socket, which the kernel holds for the call.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    let key = Key::new(
        AddressKey::WORKLOAD_BITS + 128,
        AddressKey::new(workload(), destination.ip),
    );
    let known = ADDRESSES.get(&key);
    let is_own = known.is_some_and(|entry| entry.local != 0);
    // An address of a shared namespace may be anybody's; the loopback is the machine's own in any case.
    let stays = is_own && (!shares_netns() || is_programs(destination));
    if destination.is_loopback() || stays {
        // A socket that connects anew must not be named by where it went before.
        ORIGINALS.forget(sk.cast());
        return Steered::Untouched;
    }
    let source = Endpoint::v6(known.map_or([0; 4], |entry| entry.source), 0);
    // SAFETY: the program's context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    let hop = local_hop::name(ctx.sock_addr);
    match turn(
        sk.cast(),
        netns,
        bound_device(ctx.sock_addr),
        OriginalDestination {
            workload: workload(),
            destination,
            source,
            hop,
        },
    ) {
        Ok(listener) => {
            debug!(
                ctx,
                "egress to port {} turned to {}", destination.port, listener.port
            );
            count(Counter::EgressSteered);
            share_port(ctx);
            Steered::To(listener)
        }
        Err(reason) => {
            record(reason, Direction::Egress, source, destination);
            Steered::Refused
        }
    }
}

/// Lets the agent continue the connection from the address and port that the program has bound its
/// socket to, if it has.
#[inline(always)]
fn share_port(ctx: &SockAddrContext) {
    let mut on = 1_i32;
    // SAFETY: the program's context; the helper reads the four bytes of the option's value.
    unsafe {
        bpf_setsockopt(
            ctx.sock_addr.cast(),
            SOL_SOCKET,
            SO_REUSEADDR,
            (&raw mut on).cast(),
            size_of::<i32>() as i32,
        );
    }
}

const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;

/// Remembers the destination on the socket and picks the listener.
#[inline(always)]
fn turn(
    sk: *mut core::ffi::c_void,
    netns: u64,
    bound_device: u32,
    original: OriginalDestination,
) -> Result<Endpoint, KernelRefusal> {
    let destination = original.destination;
    let state = admit()?;
    // SAFETY: the map's value, which stays in place while the program runs.
    if netns != unsafe { (*state).netns } {
        return Err(KernelRefusal::ForeignNamespace);
    }
    if bound_device > LOOPBACK_IFINDEX {
        return Err(KernelRefusal::BoundDevice);
    }
    let refused = DestinationKey {
        workload: workload(),
        destination,
        reserved: 0,
    };
    if let Some(until) = REFUSED.get_ptr(&refused) {
        // SAFETY: the map's value, which stays in place while the program runs.
        if now() < unsafe { *until } {
            return Err(KernelRefusal::RefusedRecently);
        }
    }
    // SAFETY: the map's value. Two CPUs may read the same turn: a matter of balance only.
    let (worker, workers) = unsafe {
        (*state).turn += 1;
        ((*state).turn, (*state).workers)
    };
    if workers == 0 {
        return Err(KernelRefusal::NoListener);
    }
    let worker = (worker % workers) as usize & (MAX_WORKERS - 1);
    // SAFETY: the map's value; the index is masked to the array's length.
    let listener = unsafe {
        if destination.is_v4() {
            Endpoint::v4(
                u32::from_ne_bytes([127, 0, 0, 1]),
                (*state).egress_v4[worker].into(),
            )
        } else {
            Endpoint::v6([0, 0, 0, 1_u32.to_be()], (*state).egress_v6[worker].into())
        }
    };
    if listener.port == 0 {
        return Err(KernelRefusal::NoListener);
    }
    if !ORIGINALS.set(sk, &original) {
        return Err(KernelRefusal::FlowTableFull);
    }
    Ok(listener)
}

/// The interface index of `lo`, the same in every namespace.
const LOOPBACK_IFINDEX: u32 = 1;

#[inline(always)]
fn is_tcp(address: *mut bpf_sock_addr) -> bool {
    // SAFETY: the program's context.
    let (kind, protocol) = unsafe { (read!((*address).type_), read!((*address).protocol)) };
    kind == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
}

#[inline(always)]
fn bound_device(address: *mut bpf_sock_addr) -> u32 {
    // SAFETY: the context's socket, which the kernel holds for the call.
    unsafe { read!((*(*address).__bindgen_anon_1.sk).bound_dev_if) }
}
