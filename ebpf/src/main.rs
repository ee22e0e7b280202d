//! Sealwire's eBPF programs, one object: they turn a workload's TCP connections to the agent, tell
//! both sides true addresses, and let nothing unsealed out of the workload's network namespace.
//!
//! They decide nothing about peers or rules: that is the agent's work. Each workload gets its own
//! instance of the programs, which knows the workload by the global `WORKLOAD`; the maps are
//! shared. The modules stand in the order a connection meets them. On the host the crate is empty.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod dns;
#[cfg(target_arch = "bpf")]
mod guard;
#[cfg(target_arch = "bpf")]
mod local_hop;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod names;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod ports;
#[cfg(target_arch = "bpf")]
mod refuse;
#[cfg(target_arch = "bpf")]
mod shared_netns;
#[cfg(target_arch = "bpf")]
mod sk_lookup;
#[cfg(target_arch = "bpf")]
mod sk_msg;
#[cfg(target_arch = "bpf")]
mod socket_option;
#[cfg(target_arch = "bpf")]
mod sockops;

#[cfg(target_arch = "bpf")]
mod object {
    use ebpf_abi::{SocketLayout, WorkloadId};

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

    /// Not zero where the workload's network namespace is others' as well, set before the object is
    /// loaded.
    #[unsafe(no_mangle)]
    static SHARES_NETNS: u32 = 0;

    /// Whether programs that are not the workload's have sockets in its network namespace: to the
    /// verifier a constant, so that it drops what depends on it.
    #[inline(always)]
    pub(crate) fn shares_netns() -> bool {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const SHARES_NETNS) != 0 }
    }

    /// Where the kernel keeps what local acceleration must know of a socket; all zero where there
    /// is none. Set before the object is loaded.
    #[unsafe(no_mangle)]
    static SOCKET_LAYOUT: SocketLayout = SocketLayout {
        write_seq: 0,
        snd_una: 0,
        rcv_nxt: 0,
        copied_seq: 0,
        ulp: 0,
        flags: 0,
        socket: 0,
        user_data: 0,
        unread: 0,
        file: 0,
        file_flags: 0,
        zero_copy_bit: 0,
    };

    /// The layout of sockets, `None` where nothing is accelerated: to the verifier a constant, so
    /// that it drops what depends on it.
    #[inline(always)]
    pub(crate) fn socket_layout() -> Option<SocketLayout> {
        // SAFETY: as above.
        let layout = unsafe { core::ptr::read_volatile(&raw const SOCKET_LAYOUT) };
        (layout.write_seq != 0).then_some(layout)
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
