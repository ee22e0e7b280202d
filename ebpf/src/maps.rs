//! Every map, and nothing else but the thin access to socket storage.

use core::{ffi::c_void, marker::PhantomData, ptr};

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash},
};
use ebpf_abi::{
    AddressEntry, AddressKey, Counter, DNS_RING_BYTES, DestinationKey, DnsQuestion, Endpoint,
    FlowKey, HopId, InnerFlow, LONGEST_DNS_MESSAGE, ListenerKey, LocalHop, OriginalDestination,
    PortKey, ProgramPort, Token, Workload, WorkloadId,
};

/// When the agent last said that it is alive: `CLOCK_MONOTONIC` nanoseconds.
#[map]
pub(crate) static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);

/// What agents of the instance show with what they ask for by socket options.
#[map]
pub(crate) static TOKEN: Array<Token> = Array::with_max_entries(1, 0);

/// What the agent has told of each workload. A plain hash: what is not in it is refused.
#[map]
pub(crate) static WORKLOADS: HashMap<WorkloadId, Workload> = HashMap::with_max_entries(4096, 0);

/// Own addresses of the workloads' namespaces, and from which of them a destination is reached.
#[map]
pub(crate) static ADDRESSES: LpmTrie<AddressKey, AddressEntry> =
    LpmTrie::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// For a port, or all without an entry of their own: whether ingress goes straight to the program.
#[map]
pub(crate) static INGRESS_PORTS: HashMap<PortKey, u32> =
    HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// The workloads that may send no datagrams.
#[map]
pub(crate) static UDP_DENIED: HashMap<WorkloadId, u32> = HashMap::with_max_entries(4096, 0);

/// The agent's ingress listeners. A listener that closes leaves the map by itself.
#[map]
pub(crate) static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(131_072, 0);

/// Egress connections between their SYN and their acceptance by the agent.
#[map]
pub(crate) static FLOWS: HashMap<FlowKey, OriginalDestination> =
    HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Ingress connections between the agent's dial and the program's acceptance: the true client.
#[map]
pub(crate) static CLIENTS: HashMap<FlowKey, Endpoint> =
    HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Where the workload's programs listen and how many of their sockets do; only where the namespace is
/// shared. An entry whose count is zero stays: taking it away could take a count of another CPU's along.
#[map]
pub(crate) static PROGRAM_PORTS: HashMap<ProgramPort, u64> =
    HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// Connections between programs of one workload; only where the namespace is shared.
#[map]
pub(crate) static INNER_FLOWS: HashMap<InnerFlow, u32> =
    HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Destinations that refused, and until when (`CLOCK_MONOTONIC` nanoseconds) to say so at once.
/// A cache: losing an entry costs a reset in place of an ECONNREFUSED.
#[map]
pub(crate) static REFUSED: LruHashMap<DestinationKey, u64> = LruHashMap::with_max_entries(8192, 0);

/// The programs' ends of connections that may be accelerated: what they send, `sk_msg` sees. Like
/// the two maps below it has this size only where local acceleration is on.
#[map]
pub(crate) static PROGRAM_ENDS: SockHash<HopId> = SockHash::with_max_entries(65536, 0);

/// The agent's ends of those that are accelerated: where redirected messages go. No program is
/// attached to this map, so what the agent sends takes its usual way.
#[map]
pub(crate) static AGENT_ENDS: SockHash<HopId> = SockHash::with_max_entries(65536, 0);

/// What is known of them. A cache: a connection that is not in it is not accelerated.
#[map]
pub(crate) static LOCAL_HOPS: LruHashMap<HopId, LocalHop> = LruHashMap::with_max_entries(65536, 0);

/// [`Counter`]s.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// [`ebpf_abi::RefusalEvent`]s for the agent. Full means that events are lost, never counts.
#[map]
pub(crate) static REFUSALS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// What the workload's programs have asked resolvers and had no answer to. A cache: the answer to a
/// question that is not in it is not told. Like the two maps below it is an instance's own, and has this
/// size only where answers are overheard.
#[map]
pub(crate) static DNS_QUESTIONS: LruHashMap<DnsQuestion, u32> =
    LruHashMap::with_max_entries(4096, 0);

/// Room to put an answer together: one at a time on a CPU.
#[map]
pub(crate) static DNS_MESSAGE: PerCpuArray<[u8; LONGEST_DNS_MESSAGE]> =
    PerCpuArray::with_max_entries(1, 0);

/// Answers for the agent: DNS messages as they came.
#[map]
pub(crate) static DNS_ANSWERS: RingBuf = RingBuf::with_byte_size(DNS_RING_BYTES, 0);

/// On a program's own socket: what it connected to.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "ORIGINALS")]
pub(crate) static ORIGINALS: SocketStorage<OriginalDestination, NO_CLONE> = SocketStorage::new();

/// On the agent's accepted socket: the same, which the agent gets by a socket option.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "ACCEPTED")]
pub(crate) static ACCEPTED: SocketStorage<OriginalDestination, NO_CLONE> = SocketStorage::new();

/// On a program's accepted socket: the true client.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "TRUE_PEERS")]
pub(crate) static TRUE_PEERS: SocketStorage<Endpoint, NO_CLONE> = SocketStorage::new();

/// Sockets whose segments may leave the namespace: the agent's wire sockets, which it marks by a socket
/// option, and programs' accepted sockets on plaintext ports. A connection accepted from a
/// marked listener inherits the mark before its first segment.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "PERMITTED")]
pub(crate) static PERMITTED: SocketStorage<u32, CLONE> = SocketStorage::new();

const NO_CLONE: usize = BPF_F_NO_PREALLOC as usize;
const CLONE: usize = (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize;

/// A BPF_MAP_TYPE_SK_STORAGE map: values that live and die with a socket.
///
/// Minimum kernel version: 5.2 (tracing the value by file descriptor: the same). aya-ebpf's own
/// type serves `sock_addr` contexts only and has no flags.
#[repr(C)]
pub(crate) struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
    marker: PhantomData<T>,
}

// SAFETY: the fields are a map definition in BTF form, replaced by the loader; nothing reads them.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SocketStorage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
            marker: PhantomData,
        }
    }

    /// The value of `sk`, null where it has none.
    #[inline(always)]
    pub(crate) fn of(&self, sk: *mut c_void) -> *mut T {
        // SAFETY: the helper checks `sk`, which the verifier has proved to be a socket or null
        // (callers test), and returns a pointer into the map or null.
        unsafe { bpf_sk_storage_get(self.as_ptr(), sk, ptr::null_mut(), 0).cast() }
    }

    /// Sets the value of `sk`; false when the kernel could not (memory, or a socket in its last
    /// throes).
    #[inline(always)]
    pub(crate) fn set(&self, sk: *mut c_void, value: &T) -> bool
    where
        T: Copy,
    {
        let initial = ptr::from_ref(value).cast_mut().cast();
        // SAFETY: as in `of`; the value is read while the borrow lives.
        let place: *mut T = unsafe {
            bpf_sk_storage_get(
                self.as_ptr(),
                sk,
                initial,
                BPF_SK_STORAGE_GET_F_CREATE.into(),
            )
            .cast()
        };
        if place.is_null() {
            return false;
        }
        // A socket that connects again has a value already, which the helper leaves as it is.
        // SAFETY: not null, and points to a T that belongs to this socket.
        unsafe { *place = *value };
        true
    }

    /// Forgets the value of `sk`.
    #[inline(always)]
    pub(crate) fn forget(&self, sk: *mut c_void) {
        // SAFETY: as in `of`.
        unsafe { bpf_sk_storage_delete(self.as_ptr(), sk) };
    }

    #[inline(always)]
    fn as_ptr(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}
