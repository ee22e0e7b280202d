//! Whether a connection may begin, and the record of those that may not.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use ebpf_abi::{
    Counter, Direction, Endpoint, HEARTBEAT_LIFETIME_NS, KernelRefusal, RefusalEvent, Workload,
};

use crate::{
    maps::{COUNTERS, HEARTBEAT, REFUSALS, WORKLOADS},
    object::workload,
};

/// `CLOCK_MONOTONIC` nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes nothing, reads the clock.
    unsafe { bpf_ktime_get_ns() }
}

/// The workload's state, if its agent is alive and it has a valid certificate.
#[inline(always)]
pub(crate) fn admit() -> Result<*mut Workload, KernelRefusal> {
    let now = now();
    let heartbeat = HEARTBEAT.get(0).copied().unwrap_or(0);
    if now > heartbeat + HEARTBEAT_LIFETIME_NS {
        return Err(KernelRefusal::AgentStale);
    }
    let state = WORKLOADS
        .get_ptr_mut(workload())
        .ok_or(KernelRefusal::UnknownWorkload)?;
    // SAFETY: the map's value, which stays in place while the program runs.
    match unsafe { (*state).credential_until } {
        0 => Err(KernelRefusal::NoCredential),
        until if now > until => Err(KernelRefusal::CredentialExpired),
        _ => Ok(state),
    }
}

/// Counts a refusal and tells the agent.
#[inline(always)]
pub(crate) fn record(reason: KernelRefusal, direction: Direction, from: Endpoint, to: Endpoint) {
    count(Counter::Refused(reason));
    if let Some(mut entry) = REFUSALS.reserve::<RefusalEvent>(0) {
        entry.write(RefusalEvent {
            workload: workload(),
            at: now(),
            reason: reason as u32,
            direction: direction as u32,
            from,
            to,
        });
        entry.submit(0);
    }
}

/// Adds one to a counter.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: this CPU's own value.
        unsafe { *value += 1 };
    }
}
