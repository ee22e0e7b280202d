//! `sk_lookup`: a connection that arrives for any port of the workload goes to the agent's ingress
//! listener. Where the workload shares its namespace: for any port that its programs listen on.
//!
//! Of several programs in one namespace the kernel runs each; a listener that one of them has found
//! counts, also where another refuses.
//!
//! Minimum kernel version: 5.9.

use aya_ebpf::{
    bindings::{
        bpf_sk_lookup,
        sk_action::{SK_DROP, SK_PASS},
    },
    macros::sk_lookup,
    maps::lpm_trie::Key,
    programs::SkLookupContext,
};
use aya_log_ebpf::debug;
use ebpf_abi::{AddressKey, Counter, Direction, Endpoint, IPV4, IPV6, KernelRefusal, ListenerKey};

use crate::{
    context::{IPPROTO_TCP, ends, read},
    maps::{ADDRESSES, LISTENERS},
    object::{shares_netns, workload},
    ports::is_plaintext,
    refuse::{admit, count, record},
    shared_netns,
};

#[sk_lookup]
fn ingress(ctx: SkLookupContext) -> u32 {
    let lookup: *mut bpf_sk_lookup = ctx.lookup;
    // SAFETY: the program's context.
    let (protocol, (from, to)) = unsafe { (read!((*lookup).protocol), ends(lookup)) };
    if protocol != IPPROTO_TCP || !is_meant(from, to) {
        return SK_PASS;
    }
    match assign(&ctx, from, to) {
        Ok(()) => SK_PASS,
        Err(reason) => {
            record(reason, Direction::Ingress, from, to);
            SK_DROP
        }
    }
}

/// Whether the connection is one that a client opens to the workload.
#[inline(always)]
fn is_meant(from: Endpoint, to: Endpoint) -> bool {
    if shares_netns() {
        shared_netns::is_programs(to) && !shared_netns::stays_inside(from, to)
    } else {
        !stays_inside(from, to)
    }
}

/// Whether both ends are in this namespace: the agent's dial to the program, or the program's to
/// itself. `ingress_ifindex` can't tell: for an own address of another interface it is not `lo`.
#[inline(always)]
fn stays_inside(from: Endpoint, to: Endpoint) -> bool {
    if to.is_loopback() {
        return true;
    }
    let key = Key::new(
        AddressKey::WORKLOAD_BITS + 128,
        AddressKey::new(workload(), from.ip),
    );
    ADDRESSES.get(&key).is_some_and(|entry| entry.local != 0)
}

#[inline(always)]
fn assign(ctx: &SkLookupContext, from: Endpoint, to: Endpoint) -> Result<(), KernelRefusal> {
    let state = admit()?;
    if is_plaintext(to.port) {
        return Ok(());
    }
    // SAFETY: the map's value, which stays in place while the program runs.
    let workers = unsafe { (*state).workers };
    if workers == 0 {
        return Err(KernelRefusal::NoListener);
    }
    // From the addresses alone: the ACK that answers a SYN cookie must find the listener that sent
    // it. Ephemeral ports go up in steps of two.
    let listener = ListenerKey {
        workload: workload(),
        family: if to.is_v4() { IPV4 } else { IPV6 },
        worker: ((from.port >> 1) ^ from.ip[3].swap_bytes()) % workers,
    };
    debug!(
        ctx,
        "ingress for port {} to worker {}", to.port, listener.worker
    );
    LISTENERS
        .redirect_sk_lookup(ctx, listener, 0)
        .map_err(|_| KernelRefusal::NoListener)?;
    count(Counter::IngressSteered);
    Ok(())
}
