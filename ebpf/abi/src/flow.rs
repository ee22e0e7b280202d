use crate::{Endpoint, HopId, WorkloadId, pod};

/// A connection between a program and the agent, seen from the side that opened it; unique while
/// that connection lives.
///
/// The port at the other end belongs to it: two connections may leave from one port if they lead to
/// different ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// The cookie of the network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// The connecting socket's own address and port.
    pub source: Endpoint,
    /// The port it connects to, in host byte order.
    pub listener: u32,
}

pod!(FlowKey);
const _: () = assert!(size_of::<FlowKey>() == 32);

impl FlowKey {
    /// The key of the connection that `source` opened to the port `listener`, in the namespace with
    /// this cookie.
    #[inline(always)]
    pub const fn new(netns: u64, source: Endpoint, listener: u32) -> Self {
        Self {
            netns,
            source,
            listener,
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
    /// What the maps of local acceleration call the connection.
    pub hop: HopId,
}

pod!(OriginalDestination);
const _: () = assert!(size_of::<OriginalDestination>() == 64);
