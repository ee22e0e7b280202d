//! `sockops`: hands what is known of a connection from the socket that opened it to the socket that
//! accepts it.
//!
//! Egress: connect hook -> `ORIGINALS[program's socket]` -> `FLOWS[its address]` ->
//! `ACCEPTED[agent's socket]`. Ingress: agent -> `CLIENTS[agent's address]` ->
//! `TRUE_PEERS[program's socket]`. The tables keyed by address hold a flow only while its handshake
//! on the loopback lasts, so a port that is used again can't find its predecessor.
//!
//! Minimum kernel version: 5.14 (`bpf_get_netns_cookie`).

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE, BPF_TCP_FIN_WAIT1,
        BPF_TCP_LISTEN, bpf_sock_ops,
    },
    helpers::generated::bpf_setsockopt,
    macros::sock_ops,
    programs::SockOpsContext,
};
use ebpf_abi::{Direction, KernelRefusal};

use crate::{
    context::{IPPROTO_TCP, own_flow, peers_flow, read},
    local_hop,
    maps::{ACCEPTED, CLIENTS, FLOWS, ORIGINALS, PERMITTED, TRUE_PEERS},
    object::shares_netns,
    ports::is_plaintext,
    refuse::record,
    shared_netns::{close_inner_flow, close_port, open_inner_flow, open_port},
};

/// On the workload's cgroup.
#[sock_ops]
fn sockops_workload(ctx: SockOpsContext) -> u32 {
    let ops = ctx.ops;
    // SAFETY: the program's context.
    match unsafe { read!((*ops).op) } {
        BPF_SOCK_OPS_TCP_CONNECT_CB => open_flow(&ctx),
        BPF_SOCK_OPS_STATE_CB => {
            // SAFETY: the program's context; for this operation the arguments are the old and the
            // new state.
            let (old, new) = unsafe {
                (
                    read!((*ops).__bindgen_anon_1.args[0]),
                    read!((*ops).__bindgen_anon_1.args[1]),
                )
            };
            match new {
                BPF_TCP_CLOSE => closed(ops, old),
                BPF_TCP_FIN_WAIT1 => local_hop::half_closed(ops),
                _ => {}
            }
        }
        BPF_SOCK_OPS_TCP_LISTEN_CB if shares_netns() => open_port(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => name_client(ops),
        _ => {}
    }
    1
}

/// A program's socket is done, or listens no longer.
#[inline(always)]
fn closed(ops: *mut bpf_sock_ops, before: u32) {
    if before == BPF_TCP_LISTEN {
        if shares_netns() {
            close_port(ops);
        }
        return;
    }
    // Usually gone already: here for a connection that was never accepted.
    // SAFETY: the program's context.
    let _ = FLOWS.remove(unsafe { own_flow(ops) });
    if shares_netns() {
        close_inner_flow(ops);
    }
}

/// On the agent's cgroup.
#[sock_ops]
fn sockops_agent(ctx: SockOpsContext) -> u32 {
    let ops = ctx.ops;
    // SAFETY: the program's context.
    unsafe {
        if read!((*ops).op) != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
            return 1;
        }
        let key = peers_flow(ops);
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return 1;
        }
        if let Some(flow) = FLOWS.get_ptr(&key) {
            // A failure leaves the socket without a value, which the agent refuses.
            let original = *flow;
            ACCEPTED.set(sk.cast(), &original);
            let _ = FLOWS.remove(&key);
        }
    }
    1
}

/// The source port is chosen and the SYN not sent: publish where the connection is meant to go.
#[inline(always)]
fn open_flow(ctx: &SockOpsContext) {
    let ops = ctx.ops;
    // SAFETY: the program's context; the socket is tested for null, as is its value.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let original = ORIGINALS.of(sk.cast());
        if original.is_null() {
            if shares_netns() {
                open_inner_flow(ctx);
            }
            return;
        }
        let key = own_flow(ops);
        (*original).source.port = key.source.port;
        let value = *original;
        if FLOWS.insert(&key, &value, 0).is_err() {
            // The agent will find nothing and reset the connection.
            record(
                KernelRefusal::FlowTableFull,
                Direction::Egress,
                value.source,
                value.destination,
            );
            return;
        }
        unpace(ops);
        let flags = read!((*ops).bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
        let _ = ctx.set_cb_flags(flags as i32);
    }
}

/// A program's new connection: from the agent, in which case the true client is known, or on a port
/// that is not steered, in which case its segments may leave as they are.
#[inline(always)]
fn name_client(ops: *mut bpf_sock_ops) {
    // SAFETY: the program's context; the socket is tested for null.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let key = peers_flow(ops);
        if let Some(client) = CLIENTS.get_ptr(&key) {
            let client = *client;
            TRUE_PEERS.set(sk.cast(), &client);
            unpace(ops);
            let _ = CLIENTS.remove(&key);
            return;
        }
        if is_plaintext(read!((*ops).local_port)) {
            PERMITTED.set(sk.cast(), &1);
        }
    }
}

/// Takes a congestion control that doesn't pace for the way between program and agent.
///
/// Nothing is ever lost on the loopback, and pacing by BBR, where that is the default, halves the
/// rate there. The connection on the wire keeps the machine's own.
#[inline(always)]
fn unpace(ops: *mut bpf_sock_ops) {
    let mut name = *b"reno";
    // SAFETY: the program's context; the helper reads the four bytes of the name, which every
    // kernel knows.
    unsafe {
        bpf_setsockopt(
            ops.cast(),
            IPPROTO_TCP as i32,
            TCP_CONGESTION,
            name.as_mut_ptr().cast(),
            name.len() as i32,
        );
    }
}

/// `TCP_CONGESTION` of tcp(7).
const TCP_CONGESTION: i32 = 13;
