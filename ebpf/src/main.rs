//! Sealwire's eBPF programs, one object: they turn a workload's TCP connections to the agent, tell
//! both sides true addresses, and let nothing unsealed out of the workload's network namespace.
//!
//! They decide nothing about peers or rules: that is the agent's work. Each workload gets its own
//! instance of the programs, which knows the workload by the global `WORKLOAD`; the maps are
//! shared. The modules stand in the order a connection meets them. On the host the crate is empty.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod guard;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod names;
#[cfg(target_arch = "bpf")]
mod ports;
#[cfg(target_arch = "bpf")]
mod refuse;
#[cfg(target_arch = "bpf")]
mod sk_lookup;
#[cfg(target_arch = "bpf")]
mod sockops;

#[cfg(target_arch = "bpf")]
mod object {
    use ebpf_abi::WorkloadId;

    /// The workload this instance serves, set before the object is loaded.
    ///
    /// An instance each, since `sk_lookup` has no helper that tells the namespace it runs in, and a
    /// socket's cgroup may be below the workload's.
    #[unsafe(no_mangle)]
    static WORKLOAD: u64 = 0;

    /// This instance's workload.
    #[inline(always)]
    pub(crate) fn workload() -> WorkloadId {
        // SAFETY: a read of a static of ours. Volatile, since the loader changes the value after
        // the compiler has seen a constant zero.
        WorkloadId(unsafe { core::ptr::read_volatile(&raw const WORKLOAD) })
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "license")]
    static LICENSE: [u8; 4] = *b"GPL\0";

    /// The verifier admits no path that gets here; an endless loop is what it can check.
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
