//! Overhears what resolvers answer the workload's programs, for rules by wildcard names: only where a
//! workload has such a rule are these programs attached. They let every packet pass.
//!
//! Told is the answer to a question that a socket of the workload's has asked, and only the first: who
//! wants to forge one has to guess the socket's port and the question's ID as for any resolver. The
//! question is known by its socket rather than by addresses, since within the namespace a resolver's
//! address and port may be translated (Docker's is), and on the way out that has happened already.
//!
//! An answer is told before the program can read it.
//!
//! Minimum kernel version: 5.8 (ring buffer; socket cookies of packets: 4.13).

use aya_ebpf::{
    bindings::{__sk_buff, bpf_hdr_start_off},
    helpers::generated::{bpf_get_socket_cookie, bpf_ringbuf_output, bpf_skb_load_bytes_relative},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use ebpf_abi::{Counter, DnsQuestion, LONGEST_DNS_MESSAGE};

use crate::{
    context::read,
    maps::{DNS_ANSWERS, DNS_MESSAGE, DNS_QUESTIONS},
    packet::{Packet, load, parse},
    refuse::count,
};

#[cgroup_skb(egress)]
fn dns_question(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // Of whatever port: a translated one is not 53.
    if let Packet::Udp {
        payload: Some(at), ..
    } = parse(skb)
        && let Some(header) = load::<DnsHeader>(skb, at)
        && header.asks()
    {
        let _ = DNS_QUESTIONS.insert(header.question(skb), 1, 0);
    }
    PASS
}

#[cgroup_skb(ingress)]
fn dns_answer(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    if let Packet::Udp {
        from,
        payload: Some(at),
        ..
    } = parse(skb)
        && from.port == PORT
        && let Some(header) = load::<DnsHeader>(skb, at)
        && header.answers()
        && DNS_QUESTIONS.remove(header.question(skb)).is_ok()
    {
        tell(skb, at);
    }
    PASS
}

const PASS: i32 = 1;

/// Where resolvers listen.
const PORT: u32 = 53;

#[inline(always)]
fn tell(skb: *mut __sk_buff, at: u32) {
    let Some(message) = DNS_MESSAGE.get_ptr_mut(0) else {
        return;
    };
    // In 64 bits: of 32, LLVM compares a copy, and the verifier learns nothing of the value itself ("R4
    // min value is negative").
    // SAFETY: the program's context.
    let rest = u64::from(unsafe { read!((*skb).len) }).wrapping_sub(at.into());
    // What does not fit is cut, and the agent can't read it. The header is known to be there; 6.1 wants to
    // hear it by a comparison of the value that is not one with zero ("invalid access to map value, size=0").
    let length = rest.clamp(size_of::<DnsHeader>() as u64, LONGEST_DNS_MESSAGE as u64);
    // SAFETY: `message` is a map's value of LONGEST_DNS_MESSAGE bytes, this CPU's own; the first helper
    // writes exactly `length` bytes of it or fails, the second reads them.
    let is_told = unsafe {
        let loaded = bpf_skb_load_bytes_relative(
            skb.cast(),
            at,
            message.cast(),
            length as u32,
            bpf_hdr_start_off::BPF_HDR_START_NET,
        );
        let ring = core::ptr::addr_of!(DNS_ANSWERS).cast_mut().cast();
        loaded == 0 && bpf_ringbuf_output(ring, message.cast(), length, 0) == 0
    };
    if !is_told {
        count(Counter::LostDnsAnswers);
    }
}

/// RFC 1035 section 4.1.1.
#[repr(C)]
#[derive(Clone, Copy)]
struct DnsHeader {
    id: u16,
    flags: u16,
    questions: u16,
    answers: u16,
    authorities: u16,
    additions: u16,
}

impl DnsHeader {
    #[inline(always)]
    fn asks(&self) -> bool {
        u16::from_be(self.flags) & (RESPONSE | OPCODE) == 0 && self.has_one_question()
    }

    /// Without an error: others may be followed by the answer of another resolver, and none of them
    /// names an address.
    #[inline(always)]
    fn answers(&self) -> bool {
        let kind = u16::from_be(self.flags) & (RESPONSE | OPCODE | ERROR);
        kind == RESPONSE && self.has_one_question()
    }

    #[inline(always)]
    fn has_one_question(&self) -> bool {
        u16::from_be(self.questions) == 1
    }

    #[inline(always)]
    fn question(&self, skb: *mut __sk_buff) -> DnsQuestion {
        DnsQuestion {
            // SAFETY: the program's context.
            cookie: unsafe { bpf_get_socket_cookie(skb.cast()) },
            id: self.id.into(),
            reserved: 0,
        }
    }
}

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const ERROR: u16 = 0x000f;
