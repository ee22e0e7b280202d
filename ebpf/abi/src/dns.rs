use crate::pod;

/// A question that a program has asked a resolver: the answer is known by the socket that gets it and
/// by the number of the question.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsQuestion {
    /// The cookie of the program's socket.
    pub cookie: u64,
    /// The message's ID (RFC 1035 section 4.1.1), as it is on the wire.
    pub id: u32,
    /// Zero.
    pub reserved: u32,
}

pod!(DnsQuestion);
const _: () = assert!(size_of::<DnsQuestion>() == 16);

/// The longest answer that is told whole. Resolvers send no longer ones over UDP: 4096 bytes is their
/// usual limit, 1232 the recommended one.
pub const LONGEST_DNS_MESSAGE: usize = 4096;

/// The size of the ring buffer for the answers of one workload.
pub const DNS_RING_BYTES: u32 = 1 << 18;
