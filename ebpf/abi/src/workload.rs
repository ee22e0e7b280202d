use crate::{Endpoint, pod};

/// The most worker threads one agent may have: each has its own listener in every workload.
pub const MAX_WORKERS: usize = 32;

/// `AF_INET`, as a [`ListenerKey`] names it.
pub const IPV4: u32 = 2;
/// `AF_INET6`, as a [`ListenerKey`] names it.
pub const IPV6: u32 = 10;

/// Which workload: the id of its cgroup2 directory (its inode number), never reused while the
/// machine is up.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadId(pub u64);

pod!(WorkloadId);

/// What the hooks must know of a workload before they let a connection begin.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// `CLOCK_MONOTONIC` nanoseconds until which the workload's certificate is valid; zero while
    /// there is none whose validity has begun.
    pub credential_until: u64,
    /// The cookie of its network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// How many of the ports below are in use.
    pub workers: u32,
    /// Counts connections, to spread them over the workers.
    pub turn: u32,
    /// The egress listener of each worker on 127.0.0.1, host byte order.
    pub egress_v4: [u16; MAX_WORKERS],
    /// The egress listener of each worker on `::1`, host byte order; zero without IPv6.
    pub egress_v6: [u16; MAX_WORKERS],
}

pod!(Workload);
const _: () = assert!(size_of::<Workload>() == 24 + 4 * MAX_WORKERS);

/// Names an ingress listener in the socket map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerKey {
    /// The workload it serves.
    pub workload: WorkloadId,
    /// [`IPV4`] or [`IPV6`].
    pub family: u32,
    /// The worker that accepts from it.
    pub worker: u32,
}

pod!(ListenerKey);
const _: () = assert!(size_of::<ListenerKey>() == 16);

/// A port of a workload, whose value says whether ingress is steered.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortKey {
    /// The workload.
    pub workload: WorkloadId,
    /// The port in host byte order.
    pub port: u32,
    /// Always zero.
    pub reserved: u32,
}

pod!(PortKey);
const _: () = assert!(size_of::<PortKey>() == 16);

impl PortKey {
    /// In place of a port: what holds for the ports without an entry.
    pub const DEFAULT: u32 = 0;
    /// The value of a port whose connections go straight to the program.
    pub const PLAINTEXT: u32 = 1;
    /// The value of a port whose connections go to the agent.
    pub const STEERED: u32 = 0;
}

/// A destination as a workload sees it, for those that just refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestinationKey {
    /// The workload.
    pub workload: WorkloadId,
    /// Where it connects to.
    pub destination: Endpoint,
    /// Always zero.
    pub reserved: u32,
}

pod!(DestinationKey);
const _: () = assert!(size_of::<DestinationKey>() == 32);

/// The data part of a longest-prefix-match key: an address as a workload sees it.
///
/// The workload's id comes first and is always matched whole: a prefix of the address `n` bits long
/// has a prefix length of `64 + n` (IPv4 in its mapped form: `64 + 96 + n`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressKey {
    /// The two halves of the workload's id, in whatever order the machine keeps them.
    pub workload: [u32; 2],
    /// The address as in [`Endpoint::ip`].
    pub ip: [u32; 4],
}

pod!(AddressKey);
const _: () = assert!(size_of::<AddressKey>() == 24);

impl AddressKey {
    /// Bits before the address.
    pub const WORKLOAD_BITS: u32 = 64;

    /// The key for looking up one whole address.
    #[inline(always)]
    pub const fn new(workload: WorkloadId, ip: [u32; 4]) -> Self {
        Self {
            workload: [(workload.0 >> 32) as u32, workload.0 as u32],
            ip,
        }
    }
}

/// What is known of an address as seen from a workload's network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressEntry {
    /// The namespace's own address from which the destination is reached.
    pub source: [u32; 4],
    /// One where the address is the namespace's own, else zero.
    pub local: u32,
}

pod!(AddressEntry);
const _: () = assert!(size_of::<AddressEntry>() == 20);
