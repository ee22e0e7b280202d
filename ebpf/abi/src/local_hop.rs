use crate::{Endpoint, pod};

/// One connection between a program and the agent, as the maps of local acceleration name it.
///
/// Never used twice while the machine is up, unlike ports and addresses: what is left in a map of a
/// connection that has ended can't be taken for its successor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopId {
    /// The cookie of the program's socket.
    pub cookie: u64,
    /// `CLOCK_MONOTONIC` nanoseconds of the `connect()`: a socket may connect again. Zero where
    /// nothing is accelerated.
    pub opened: u64,
}

pod!(HopId);
const _: () = assert!(size_of::<HopId>() == 16);

/// What `sk_msg` knows of a connection that may be accelerated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalHop {
    /// The kernel's address of the program's socket.
    pub program: u64,
    /// The kernel's address of the agent's socket.
    pub agent: u64,
    /// At least as many bytes as were redirected and not read, since nothing was unread last.
    pub unread: u32,
    /// A [`HopState`].
    pub state: u32,
}

pod!(LocalHop);
const _: () = assert!(size_of::<LocalHop>() == 24);

/// Whether a connection's messages may be redirected.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopState {
    /// They may.
    Open = 1,
    /// Reads of the program may block, and would see errors that belong to sockets that don't.
    ProgramBlocks = 2,
    /// The program waits for the kernel's word on each buffer (`SO_ZEROCOPY`), which redirected
    /// messages don't get.
    ZeroCopy = 3,
    /// The program's socket has an upper layer of its own: TLS in the kernel, or multipath TCP.
    UpperLayer = 4,
    /// The kernel did not take the program's socket into the map.
    NotTaken = 5,
}

impl HopState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::ProgramBlocks,
        Self::ZeroCopy,
        Self::UpperLayer,
        Self::NotTaken,
    ];
}

/// What the agent hands to `join_local_hop`, as a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinRequest {
    /// Where the kernel looks for an Ethernet header; zero.
    pub header: [u64; 2],
    /// What the maps are to call the connection.
    pub id: HopId,
    /// The program's end.
    pub program: Endpoint,
    /// The agent's end.
    pub agent: Endpoint,
}

pod!(JoinRequest);
const _: () = assert!(size_of::<JoinRequest>() == 72);

/// Where this kernel keeps what `sk_msg` must know of a socket: offsets in bytes, found in the
/// kernel's BTF. All zero: nothing is accelerated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketLayout {
    /// `tcp_sock.write_seq`: behind the last byte that was given to TCP.
    pub write_seq: u32,
    /// `tcp_sock.snd_una`: behind the last byte that the other end has acknowledged.
    pub snd_una: u32,
    /// `tcp_sock.rcv_nxt`: behind the last byte that was received.
    pub rcv_nxt: u32,
    /// `tcp_sock.copied_seq`: behind the last byte that was read.
    pub copied_seq: u32,
    /// `inet_connection_sock.icsk_ulp_ops`.
    pub ulp: u32,
    /// `sock_common.skc_flags`, with which a `sock` begins.
    pub flags: u32,
    /// `sock.sk_socket`.
    pub socket: u32,
    /// `sock.sk_user_data`: where the `sk_psock` hangs.
    pub user_data: u32,
    /// `sk_psock.ingress_msg`: redirected messages that were not read.
    pub unread: u32,
    /// `socket.file`.
    pub file: u32,
    /// `file.f_flags`.
    pub file_flags: u32,
    /// The bit of `skc_flags` that is `SOCK_ZEROCOPY`.
    pub zero_copy_bit: u32,
}

pod!(SocketLayout);
const _: () = assert!(size_of::<SocketLayout>() == 48);

/// The longest message that is redirected, in bytes: longer ones are bulk, which TCP moves at least
/// as fast.
pub const LONGEST_REDIRECTED: u32 = 16 << 10;

/// The most bytes that are redirected before the agent has read them. What comes then goes through
/// TCP, whose window stops the program.
pub const MOST_UNREAD: u32 = 64 << 10;
