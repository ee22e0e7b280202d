use crate::{Endpoint, WorkloadId, pod};

/// One end of a connection on a workload's loopback, unique while that connection lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// The cookie of the network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// The connecting socket's own address and port.
    pub source: Endpoint,
    /// Always zero.
    pub reserved: u32,
}

pod!(FlowKey);
const _: () = assert!(size_of::<FlowKey>() == 32);

impl FlowKey {
    /// The key of the connection that `source` opened in the namespace with this cookie.
    #[inline(always)]
    pub const fn new(netns: u64, source: Endpoint) -> Self {
        Self {
            netns,
            source,
            reserved: 0,
        }
    }
}

/// What a workload asked for when its `connect()` was turned to the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OriginalDestination {
    /// The workload whose connect hook saw the call.
    pub workload: WorkloadId,
    /// Where the program wanted to connect to.
    pub destination: Endpoint,
    /// The address the program would have had as its own; the port is the one its socket has.
    /// The address is unspecified where the namespace has none that reaches the destination.
    pub source: Endpoint,
}

pod!(OriginalDestination);
const _: () = assert!(size_of::<OriginalDestination>() == 48);
