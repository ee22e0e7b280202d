//! Reads a packet as far as the guards must know it.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_hdr_start_off},
    helpers::generated::bpf_skb_load_bytes_relative,
};
use ebpf_abi::Endpoint;

use crate::context::{IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, read};

/// What a packet is to a guard.
pub(crate) enum Packet {
    /// A TCP segment, or something that can't be told from one.
    Tcp {
        from: Endpoint,
        to: Endpoint,
        /// Whether it asks for a connection.
        opens: bool,
        /// Whether it opens a connection or carries bytes: a reset, an acknowledgement or the
        /// kernel's answer to a SYN does neither.
        carries: bool,
    },
    /// A datagram; its ports are known in the first fragment alone.
    Udp {
        from: Endpoint,
        to: Endpoint,
        /// Where its payload begins, from the start of the network header; unknown in later fragments.
        payload: Option<u32>,
    },
    Other,
}

/// Reads it; a packet that can't be read to its transport header is taken for TCP of every kind.
#[inline(always)]
pub(crate) fn parse(skb: *mut __sk_buff) -> Packet {
    // SAFETY: the program's context.
    let protocol = u16::from_be(unsafe { read!((*skb).protocol) } as u16);
    match protocol {
        ETH_P_IP => parse_v4(skb),
        ETH_P_IPV6 => parse_v6(skb),
        // ARP and its like carry no TCP.
        _ => Packet::Other,
    }
}

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

#[inline(always)]
fn parse_v4(skb: *mut __sk_buff) -> Packet {
    let Some(header) = load::<Ipv4Header>(skb, 0) else {
        return unreadable();
    };
    let length = u32::from(header.version_and_length & 0xf) * 4;
    let fragment = u16::from_be(header.fragment) & 0x1fff != 0;
    transport(
        skb,
        header.protocol.into(),
        length,
        u16::from_be(header.total_length).into(),
        fragment,
        Endpoint::v4(header.source, 0),
        Endpoint::v4(header.destination, 0),
    )
}

#[inline(always)]
fn parse_v6(skb: *mut __sk_buff) -> Packet {
    let Some(header) = load::<Ipv6Header>(skb, 0) else {
        return unreadable();
    };
    let mut next = u32::from(header.next);
    let mut offset = size_of::<Ipv6Header>() as u32;
    let mut fragment = false;
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            break;
        }
        let Some(extension) = load::<Extension>(skb, offset) else {
            return unreadable();
        };
        if next == FRAGMENT {
            fragment |= u16::from_be(extension.fragment) & 0xfff8 != 0;
            offset += 8;
        } else {
            offset += (u32::from(extension.length) + 1) * 8;
        }
        next = extension.next.into();
    }
    if matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
        return unreadable();
    }
    transport(
        skb,
        next,
        offset,
        u32::from(u16::from_be(header.payload_length)) + size_of::<Ipv6Header>() as u32,
        fragment,
        Endpoint::v6(header.source, 0),
        Endpoint::v6(header.destination, 0),
    )
}

/// `offset` is where the transport header begins and `end` where the packet says it ends, both from
/// the start of the network header.
#[inline(always)]
fn transport(
    skb: *mut __sk_buff,
    protocol: u32,
    offset: u32,
    end: u32,
    fragment: bool,
    mut from: Endpoint,
    mut to: Endpoint,
) -> Packet {
    match protocol {
        IPPROTO_UDP | IPPROTO_UDPLITE => {
            let mut payload = None;
            if !fragment && let Some(udp) = load::<UdpPorts>(skb, offset) {
                from.port = u16::from_be(udp.source).into();
                to.port = u16::from_be(udp.destination).into();
                payload = Some(offset + UDP_HEADER);
            }
            Packet::Udp { from, to, payload }
        }
        // A later fragment has no header to read, and bytes to carry.
        IPPROTO_TCP if fragment => Packet::Tcp {
            from,
            to,
            opens: true,
            carries: true,
        },
        IPPROTO_TCP => {
            let Some(tcp) = load::<TcpHeader>(skb, offset) else {
                return Packet::Tcp {
                    from,
                    to,
                    opens: true,
                    carries: true,
                };
            };
            from.port = u16::from_be(tcp.source).into();
            to.port = u16::from_be(tcp.destination).into();
            let opens = tcp.flags & (SYN | ACK) == SYN;
            let header_end = offset + u32::from(tcp.offset >> 4) * 4;
            // SAFETY: the program's context. A segment that the device will cut (or a BIG TCP one,
            // which states no length) carries bytes in any case.
            let large = unsafe { read!((*skb).gso_segs) } > 1;
            Packet::Tcp {
                from,
                to,
                opens,
                carries: opens || large || end > header_end,
            }
        }
        _ => Packet::Other,
    }
}

#[inline(always)]
fn unreadable() -> Packet {
    Packet::Tcp {
        from: Endpoint::v6([0; 4], 0),
        to: Endpoint::v6([0; 4], 0),
        opens: true,
        carries: true,
    }
}

const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const FRAGMENT: u32 = 44;
const DESTINATION_OPTIONS: u32 = 60;
/// As many as any stack sends; a chain that goes on is taken for TCP.
const MAX_EXTENSIONS: usize = 4;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// RFC 791 section 3.1.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4Header {
    version_and_length: u8,
    service: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    lifetime: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

/// RFC 8200 section 3.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Header {
    version_and_flow: u32,
    payload_length: u16,
    next: u8,
    hops: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

/// The common beginning of the extension headers, RFC 8200 section 4.
#[repr(C)]
#[derive(Clone, Copy)]
struct Extension {
    next: u8,
    length: u8,
    fragment: u16,
}

/// RFC 768.
const UDP_HEADER: u32 = 8;

/// RFC 768, as far as it is read.
#[repr(C)]
#[derive(Clone, Copy)]
struct UdpPorts {
    source: u16,
    destination: u16,
}

/// RFC 9293 section 3.1.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    source: u16,
    destination: u16,
    sequence: u32,
    acknowledgement: u32,
    offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// Reads a header, made of integers only, at `offset` from the start of the network header.
#[inline(always)]
pub(crate) fn load<T: Copy>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut header = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly size_of::<T>() bytes or fails; T is a header, made
    // of integers only.
    unsafe {
        let failed = bpf_skb_load_bytes_relative(
            skb.cast(),
            offset,
            header.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            bpf_hdr_start_off::BPF_HDR_START_NET,
        );
        if failed == 0 {
            Some(header.assume_init())
        } else {
            None
        }
    }
}
