//! The types that Sealwire's eBPF programs and its agent share.
//!
//! It contains layouts only: no logic beyond converting an address. Every type is `repr(C)`, has no
//! padding that is not named, and its size is asserted beside it, so that both sides of the ABI
//! change together or not at all.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "eBPF has no calls across crates that are worth their registers"
)]

mod counter;
mod dns;
mod endpoint;
mod flow;
mod local_hop;
mod refusal;
mod shared_netns;
mod socket_option;
mod workload;

pub use counter::Counter;
pub use dns::{DNS_RING_BYTES, DnsQuestion, LONGEST_DNS_MESSAGE};
pub use endpoint::Endpoint;
pub use flow::{FlowKey, OriginalDestination};
pub use local_hop::{
    HopId, HopState, JoinRequest, LONGEST_REDIRECTED, LocalHop, MOST_UNREAD, SocketLayout,
};
pub use refusal::{Direction, KernelRefusal, RefusalEvent};
pub use shared_netns::{InnerFlow, ProgramPort};
pub use socket_option::{
    BeatRequest, ForgetClientRequest, NameClientRequest, PermitRequest, RefuseRequest,
    SOL_SEALWIRE, SocketOption, Token,
};
pub use workload::{
    AddressEntry, AddressKey, DestinationKey, IPV4, IPV6, ListenerKey, MAX_WORKERS, PortKey,
    Workload, WorkloadId,
};

/// Of what the types here mean, in maps and as socket options. Agents and objects of one version may work
/// over the same maps; what their sizes show need not raise it.
pub const VERSION: u32 = 1;

/// Nanoseconds after which an agent that has not written its heartbeat counts as absent.
///
/// The agent writes ten times as often; a stopped agent is refused well within one second.
pub const HEARTBEAT_LIFETIME_NS: u64 = 800_000_000;

/// Implements [`aya::Pod`] for types that are plain bytes, where the agent asks for it.
macro_rules! pod {
    ($($ty:ty),+ $(,)?) => {$(
        // SAFETY: the type is repr(C), Copy, holds integers only and has no unnamed padding (its
        // size is asserted beside its definition), so any byte pattern of that size is a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $ty {}
    )+};
}
use pod;
