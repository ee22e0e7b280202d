//! Local acceleration: which connections between a program and the agent are accelerated, and how
//! their ends get into the socket maps.
//!
//! Only where the program's socket does not block: a socket in a socket map reads by
//! `tcp_bpf_recvmsg`, which wakes for whatever happens to the socket and then returns EAGAIN where
//! there is nothing to read (`tcp_msg_wait_data`, all kernels up to 6.18). A program that asks for a
//! socket that never blocks expects that answer; another does not. Whether it asks can't be told
//! when the connection is established, which is when `sockops` could take the socket: many programs
//! connect without blocking, to give up in time, and block from then on. So the agent calls
//! [`join_local_hop`] once the program has talked for a while.

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, BPF_NOEXIST, bpf_sock, bpf_sock_addr, bpf_sock_ops, bpf_sock_tuple,
    },
    helpers::{
        bpf_probe_read_kernel,
        generated::{
            bpf_get_socket_cookie, bpf_map_delete_elem, bpf_map_update_elem, bpf_sk_lookup_tcp,
            bpf_sk_release,
        },
    },
    macros::classifier,
    programs::TcContext,
};
use ebpf_abi::{Endpoint, HopId, HopState, JoinRequest, LocalHop, SocketLayout};

use crate::{
    maps::{LOCAL_HOPS, ORIGINALS, PROGRAM_ENDS},
    object::socket_layout,
    refuse::now,
};

/// Names the connection that a `connect()` is about to open.
#[inline(always)]
pub(crate) fn name(address: *mut bpf_sock_addr) -> HopId {
    if socket_layout().is_none() {
        return HopId::default();
    }
    HopId {
        // SAFETY: the program's context.
        cookie: unsafe { bpf_get_socket_cookie(address.cast()) },
        opened: now(),
    }
}

/// Never attached: the agent runs it (`BPF_PROG_TEST_RUN`) in the workload's namespace, with a
/// [`JoinRequest`] for a packet, to put a program's socket into the map; returns a [`HopState`].
///
/// Only programs of some kinds may put sockets into maps that they have not just seen established,
/// and of these only those of traffic control can look for a socket.
///
/// Minimum kernel version: 5.10 (updating a socket map from a program of traffic control).
#[classifier]
fn join_local_hop(ctx: TcContext) -> i32 {
    let joined = match (socket_layout(), ctx.load::<JoinRequest>(0)) {
        (Some(layout), Ok(request)) => join(&ctx, &layout, &request),
        _ => None,
    };
    joined.unwrap_or(HopState::NotTaken) as i32
}

#[inline(always)]
fn join(ctx: &TcContext, layout: &SocketLayout, request: &JoinRequest) -> Option<HopState> {
    let mut id = request.id;
    LOCAL_HOPS.insert(&id, &LocalHop::default(), 0).ok()?;
    let hop = LOCAL_HOPS.get_ptr_mut(&id)?;
    let agent = look_up(ctx, request.program, request.agent)?;
    // SAFETY: the map's value, which stays in place while the program runs; a socket that was looked
    // up and is let go once.
    unsafe {
        (*hop).agent = agent as u64;
        bpf_sk_release(agent.cast());
    }
    let program = look_up(ctx, request.agent, request.program)?;
    // SAFETY: as above; the socket's value is tested for null. The address is read back so that it
    // is a number to the verifier, which allows no arithmetic on a socket.
    unsafe {
        let original = ORIGINALS.of(program.cast());
        // Another connection may have the ports by now.
        let is_meant = !original.is_null() && (*original).hop == id;
        (*hop).program = program as u64;
        let address = core::ptr::read_volatile(&raw const (*hop).program);
        let mut state = HopState::NotTaken;
        if is_meant {
            state = fitness(layout, address);
            if state == HopState::Open
                && bpf_map_update_elem(
                    core::ptr::from_ref(&PROGRAM_ENDS).cast_mut().cast(),
                    (&raw mut id).cast(),
                    program.cast(),
                    BPF_NOEXIST.into(),
                ) != 0
            {
                state = HopState::NotTaken;
            }
        }
        (*hop).state = state as u32;
        bpf_sk_release(program.cast());
        Some(state)
    }
}

/// The connected socket at `to` whose other end is at `from`, in the namespace of the caller. To be
/// let go.
#[inline(always)]
fn look_up(ctx: &TcContext, from: Endpoint, to: Endpoint) -> Option<*mut bpf_sock> {
    // SAFETY: a tuple is all integers.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let (sport, dport) = ((from.port as u16).to_be(), (to.port as u16).to_be());
    let parts = &mut tuple.__bindgen_anon_1;
    let length = if from.is_v4() {
        parts.ipv4.saddr = from.ip[3];
        parts.ipv4.daddr = to.ip[3];
        parts.ipv4.sport = sport;
        parts.ipv4.dport = dport;
        // SAFETY: only its size is taken.
        size_of_val(unsafe { &parts.ipv4 })
    } else {
        parts.ipv6.saddr = from.ip;
        parts.ipv6.daddr = to.ip;
        parts.ipv6.sport = sport;
        parts.ipv6.dport = dport;
        // SAFETY: only its size is taken.
        size_of_val(unsafe { &parts.ipv6 })
    };
    // SAFETY: the program's context; the helper reads `length` bytes of the tuple.
    let sk = unsafe {
        bpf_sk_lookup_tcp(
            ctx.skb.skb.cast(),
            &raw mut tuple,
            length as u32,
            i64::from(BPF_F_CURRENT_NETNS) as u64,
            0,
        )
    };
    (!sk.is_null()).then_some(sk)
}

/// The program sends no more. Out of the map its socket reads as any other does: the acknowledgement
/// of its FIN, above all, wakes no reader with EAGAIN.
#[inline(always)]
pub(crate) fn half_closed(ops: *mut bpf_sock_ops) {
    if socket_layout().is_none() {
        return;
    }
    // SAFETY: the program's context; the socket is tested for null, as is its value; a key of the
    // map's size.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let original = ORIGINALS.of(sk.cast());
        if original.is_null() {
            return;
        }
        let mut id = (*original).hop;
        if LOCAL_HOPS.remove(&id).is_ok() {
            bpf_map_delete_elem(
                core::ptr::from_ref(&PROGRAM_ENDS).cast_mut().cast(),
                (&raw mut id).cast(),
            );
        }
    }
}

/// Whether messages of the program's socket at this address may be redirected, as it is now.
#[inline(always)]
pub(crate) fn fitness(layout: &SocketLayout, program: u64) -> HopState {
    if read::<u64>(program, layout.ulp) != Some(0) {
        return HopState::UpperLayer;
    }
    match read::<u64>(program, layout.flags) {
        Some(flags) if flags >> (layout.zero_copy_bit & 63) & 1 == 0 => {}
        _ => return HopState::ZeroCopy,
    }
    let file_flags = read::<u64>(program, layout.socket)
        .and_then(|socket| read::<u64>(socket, layout.file))
        .and_then(|file| read::<u32>(file, layout.file_flags));
    match file_flags {
        Some(flags) if flags & O_NONBLOCK != 0 => HopState::Open,
        _ => HopState::ProgramBlocks,
    }
}

/// Reads a field of the kernel's, `None` where nothing is mapped there.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper reads any address of the kernel's or says that it can't; T is an integer.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// `O_NONBLOCK` of open(2): the same on every architecture that Sealwire runs on.
const O_NONBLOCK: u32 = 0o4000;
