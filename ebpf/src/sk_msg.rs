//! `sk_msg`: hands what a program sends to the agent's socket without the loopback's TCP, where that
//! is as good.
//!
//! Redirected messages wait in a queue of their own, which the agent reads before what TCP has
//! brought. So a message may be redirected only once the agent has read everything that came by TCP,
//! which the sockets themselves tell: all is acknowledged, and as much is read as was received. The
//! other way round the order holds by itself. This also stops a program whose agent does not read:
//! the queue has no limit, but what comes once [`MOST_UNREAD`] bytes wait goes through TCP, and stays
//! there until all is read.
//!
//! Minimum kernel version: 5.10 (socket storage in `sk_msg`: 5.8).

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, sk_action::SK_PASS},
    macros::sk_msg,
    programs::SkMsgContext,
};
use ebpf_abi::{Counter, HopState, LONGEST_REDIRECTED, LocalHop, MOST_UNREAD, SocketLayout};

use crate::{
    context::read as field,
    local_hop::{fitness, read},
    maps::{AGENT_ENDS, LOCAL_HOPS, ORIGINALS},
    object::socket_layout,
    refuse::count,
};

/// Of the map of the programs' ends. A message that it does not redirect goes through TCP.
#[sk_msg]
fn local_hop(ctx: SkMsgContext) -> u32 {
    if let Some(layout) = socket_layout() {
        forward(&ctx, &layout);
    }
    SK_PASS
}

#[inline(always)]
fn forward(ctx: &SkMsgContext, layout: &SocketLayout) {
    // SAFETY: the program's context; the socket and its value are tested for null.
    let (size, id) = unsafe {
        let sk = field!((*ctx.msg).__bindgen_anon_3.sk);
        if sk.is_null() {
            return;
        }
        let original = ORIGINALS.of(sk.cast());
        if original.is_null() {
            return;
        }
        (field!((*ctx.msg).size), (*original).hop)
    };
    let Some(hop) = LOCAL_HOPS.get_ptr_mut(&id) else {
        return;
    };
    // SAFETY: the map's value, which stays in place while the program runs. Only this connection's
    // sender writes to it from now on, and the kernel holds the sender's socket for us.
    let LocalHop {
        program,
        agent,
        unread,
        state,
    } = unsafe { core::ptr::read_volatile(hop) };
    if state != HopState::Open as u32 || size > LONGEST_REDIRECTED {
        return;
    }
    let now = fitness(layout, program);
    if now != HopState::Open {
        // SAFETY: as above.
        unsafe { (*hop).state = now as u32 };
        return;
    }
    if !is_tcp_drained(layout, program, agent) {
        return;
    }
    let before = match has_unread_messages(layout, agent) {
        Some(true) => unread,
        Some(false) => 0,
        None => return,
    };
    let after = before.saturating_add(size);
    if after > MOST_UNREAD {
        return;
    }
    // Without an end of the agent's nothing is redirected, and nothing lost.
    if AGENT_ENDS.redirect_msg(ctx, id, BPF_F_INGRESS.into()) == SK_PASS.into() {
        // SAFETY: as above.
        unsafe { (*hop).unread = after };
        count(Counter::Redirected);
    }
}

/// Whether the agent has read all that the program has sent by TCP.
#[inline(always)]
fn is_tcp_drained(layout: &SocketLayout, program: u64, agent: u64) -> bool {
    // In this order: what is acknowledged has been received, and nothing else is under way.
    let sent = read::<u32>(program, layout.write_seq);
    sent.is_some()
        && sent == read(program, layout.snd_una)
        && match read::<u32>(agent, layout.rcv_nxt) {
            None => false,
            received => received == read(agent, layout.copied_seq),
        }
}

/// Whether redirected messages wait for the agent; `None` where nobody can tell.
#[inline(always)]
fn has_unread_messages(layout: &SocketLayout, agent: u64) -> Option<bool> {
    let psock = read::<u64>(agent, layout.user_data)? & !USER_DATA_FLAGS;
    if psock == 0 {
        return None;
    }
    // An empty list's head points to itself.
    let head = psock + u64::from(layout.unread);
    Some(read::<u64>(psock, layout.unread)? != head)
}

/// The bits of `sk_user_data` that are no part of the pointer (`SK_USER_DATA_PTRMASK`).
const USER_DATA_FLAGS: u64 = 7;
