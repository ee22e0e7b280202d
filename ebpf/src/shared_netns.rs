//! A workload that shares its network namespace with programs that are none of Sealwire's business:
//! which connections of the namespace are its own.
//!
//! Known are the ports that its programs listen on, from `sockops`, which sees every `listen()` of the
//! cgroup, also of a socket that was never bound, and the end of it. What opens a connection to a
//! socket of the workload's and is not known here, the ingress guard drops; so an entry that is missing
//! (the table is full, a socket that is older than the programs) costs a connection and opens nothing.
//!
//! Minimum kernel version: 4.19 (`BPF_SOCK_OPS_TCP_LISTEN_CB`).

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock_ops},
    programs::SockOpsContext,
};
use ebpf_abi::{Direction, Endpoint, FlowKey, InnerFlow, KernelRefusal, ProgramPort};

use crate::{
    context::{own_end, peers_end, read},
    maps::{CLIENTS, INNER_FLOWS, PROGRAM_PORTS},
    object::workload,
    refuse::{admit, record},
};

/// Whether programs of the workload listen there.
#[inline(always)]
pub(crate) fn is_programs(to: Endpoint) -> bool {
    listens(to) || listens(every_address(to))
}

/// Whether both ends are the workload's: the agent's dial to a program, or one program's to another.
#[inline(always)]
pub(crate) fn stays_inside(from: Endpoint, to: Endpoint) -> bool {
    let flow = InnerFlow {
        workload: workload(),
        from,
        to,
    };
    if INNER_FLOWS.get_ptr(&flow).is_some() {
        return true;
    }
    // What an agent has left that was killed while it dialled is no pass.
    let Ok(state) = admit() else {
        return false;
    };
    // SAFETY: the map's value, which stays in place while the program runs.
    let netns = unsafe { (*state).netns };
    CLIENTS
        .get_ptr(&FlowKey::new(netns, from, to.port))
        .is_some()
}

/// A program begins to listen.
#[inline(always)]
pub(crate) fn open_port(ctx: &SockOpsContext) {
    let ops = ctx.ops;
    // SAFETY: the program's context.
    let (at, flags) = unsafe { (own_end(ops), read!((*ops).bpf_sock_ops_cb_flags)) };
    // Without it the end would not be seen.
    let flags = flags | BPF_SOCK_OPS_STATE_CB_FLAG;
    let is_followed = ctx.set_cb_flags(flags as i32).is_ok();
    if !is_followed || !places(at).into_iter().flatten().all(add) {
        let nobody = Endpoint::v6([0; 4], 0);
        record(KernelRefusal::PortTableFull, Direction::Ingress, nobody, at);
    }
}

/// It listens no longer.
#[inline(always)]
pub(crate) fn close_port(ops: *mut bpf_sock_ops) {
    // SAFETY: the program's context.
    let at = unsafe { own_end(ops) };
    for place in places(at).into_iter().flatten() {
        if let Some(count) = PROGRAM_PORTS.get_ptr_mut(ProgramPort::new(workload(), place)) {
            // SAFETY: the map's value, which stays in place while the program runs. Nothing is taken
            // off that `open_port` has not added, but where the table was full when it tried.
            unsafe {
                if count.read_volatile() > 0 {
                    add_to(count, -1);
                }
            }
        }
    }
}

/// A program connects to somewhere in the namespace; noted where programs of the same workload listen.
#[inline(always)]
pub(crate) fn open_inner_flow(ctx: &SockOpsContext) {
    let ops = ctx.ops;
    // SAFETY: the program's context.
    let (from, to, flags) = unsafe {
        (
            own_end(ops),
            peers_end(ops),
            read!((*ops).bpf_sock_ops_cb_flags),
        )
    };
    if !is_programs(to) {
        return;
    }
    let flow = InnerFlow {
        workload: workload(),
        from,
        to,
    };
    let flags = flags | BPF_SOCK_OPS_STATE_CB_FLAG;
    if ctx.set_cb_flags(flags as i32).is_err() || INNER_FLOWS.insert(&flow, &1, 0).is_err() {
        record(KernelRefusal::FlowTableFull, Direction::Egress, from, to);
    }
}

/// A connection of a program's has ended.
#[inline(always)]
pub(crate) fn close_inner_flow(ops: *mut bpf_sock_ops) {
    // SAFETY: the program's context.
    let (from, to) = unsafe { (own_end(ops), peers_end(ops)) };
    let flow = InnerFlow {
        workload: workload(),
        from,
        to,
    };
    let _ = INNER_FLOWS.remove(&flow);
}

/// What a socket that listens there is asked for: a socket of IPv6 at `::` takes IPv4 as well.
#[inline(always)]
fn places(at: Endpoint) -> [Option<Endpoint>; 2] {
    let is_for_both = at.is_unspecified() && !at.is_v4();
    let v4 = Endpoint::v4(0, at.port);
    [Some(at), is_for_both.then_some(v4)]
}

/// Every address of the endpoint's family, with its port.
#[inline(always)]
fn every_address(of: Endpoint) -> Endpoint {
    if of.is_v4() {
        Endpoint::v4(0, of.port)
    } else {
        Endpoint::v6([0; 4], of.port)
    }
}

#[inline(always)]
fn listens(at: Endpoint) -> bool {
    let count = PROGRAM_PORTS.get_ptr(ProgramPort::new(workload(), at));
    // SAFETY: the map's value, which stays in place while the program runs.
    count.is_some_and(|count| unsafe { count.read_volatile() > 0 })
}

/// False where there is no room.
#[inline(always)]
fn add(at: Endpoint) -> bool {
    let key = ProgramPort::new(workload(), at);
    if PROGRAM_PORTS.insert(key, 1, BPF_NOEXIST.into()).is_ok() {
        return true;
    }
    match PROGRAM_PORTS.get_ptr_mut(key) {
        Some(count) => {
            // SAFETY: the map's value, which stays in place while the program runs.
            unsafe { add_to(count, 1) };
            true
        }
        None => false,
    }
}

/// Adds in one step, also where other CPUs do.
///
/// In assembly since core has no atomic addition for this target: it takes one for a
/// compare-and-swap, which the first version of the instruction set lacks.
///
/// # Safety
/// `place` is a map's value.
#[inline(always)]
unsafe fn add_to(place: *mut u64, summand: i64) {
    // SAFETY: one instruction, which changes the eight bytes at `place` alone; the caller's that they
    // are a map's.
    unsafe {
        asm!(
            "lock *(u64 *)({place} + 0) += {summand}",
            place = in(reg) place,
            summand = in(reg) summand,
            options(nostack),
        );
    }
}
