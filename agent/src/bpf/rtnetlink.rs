//! What hangs at a device's traffic control hooks, asked over rtnetlink: the questions that aya 0.14
//! has no call for, and the removal of a clsact qdisc.
//!
//! The calling thread's network namespace is meant. Layouts: `linux/rtnetlink.h`,
//! `linux/pkt_sched.h`, `linux/pkt_cls.h`, and RFC 3549 for the messages' framing.

use std::io;

use nix::sys::socket::SockProtocol;

use crate::netlink::{self, HEADER as NLMSG_HEADER, attributes, malformed, u32_at};

/// A side of a device's clsact qdisc.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    /// What the device receives.
    Ingress,
    /// What the device is to send.
    Egress,
}

/// A filter, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// Lower ones run first.
    pub priority: u16,
    /// The `ETH_P_*` value that packets must have, in host byte order.
    pub protocol: u16,
    /// Which one among those of one priority; zero for the line that speaks of all of them.
    pub handle: u32,
    /// Packets begin in chain 0.
    pub chain: u32,
    /// What classifies: `bpf`, `flower`, `matchall`, ...
    pub kind: String,
    /// The id of the eBPF program, if it is one.
    pub program: Option<u32>,
    /// What its owner called it, if it is an eBPF program.
    pub name: Option<String>,
}

/// The filters at one side of the device with this index, in the order in which the kernel runs
/// them. Lines that speak of a whole priority are left out.
///
/// Where the device has an `ingress` qdisc, that one's filters are listed for both sides.
pub(super) fn filters(device: u32, side: Side) -> io::Result<Vec<Filter>> {
    let ask = Request {
        kind: libc::RTM_GETTFILTER,
        flags: NLM_F_DUMP,
        device,
        handle: 0,
        parent: side.parent(),
    };
    let mut filters = Vec::new();
    ask.send(|kind, message| {
        if kind == libc::RTM_NEWTFILTER {
            let filter = Filter::parse(message).ok_or_else(malformed)?;
            if filter.handle != 0 {
                filters.push(filter);
            }
        }
        Ok(())
    })?;
    Ok(filters)
}

/// The kind of the qdisc at the place that clsact takes on the device with this index: `clsact`,
/// `ingress`, or none.
pub(super) fn hook_qdisc(device: u32) -> io::Result<Option<String>> {
    let ask = Request {
        kind: libc::RTM_GETQDISC,
        flags: NLM_F_DUMP,
        device,
        handle: 0,
        parent: 0,
    };
    let mut found = None;
    ask.send(|kind, message| {
        if kind == libc::RTM_NEWQDISC {
            let header = Header::parse(message).ok_or_else(malformed)?;
            // The kernel lists every device of the namespace.
            if header.device == device && header.parent == TC_H_CLSACT {
                found = Some(kind_of(message).ok_or_else(malformed)?);
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Removes the clsact qdisc of the device with this index, and every filter in it.
pub(super) fn remove_clsact(device: u32) -> io::Result<()> {
    let ask = Request {
        kind: libc::RTM_DELQDISC,
        flags: NLM_F_ACK,
        device,
        handle: CLSACT_HANDLE,
        parent: TC_H_CLSACT,
    };
    ask.send(|_, _| Ok(()))
}

impl Side {
    /// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and `..._EGRESS`.
    fn parent(self) -> u32 {
        match self {
            Self::Ingress => CLSACT_HANDLE | 0xfff2,
            Self::Egress => CLSACT_HANDLE | 0xfff3,
        }
    }
}

impl Filter {
    fn parse(message: &[u8]) -> Option<Self> {
        let header = Header::parse(message)?;
        let mut filter = Self {
            priority: (header.info >> 16) as u16,
            protocol: u16::from_be(header.info as u16),
            handle: header.handle,
            chain: 0,
            kind: kind_of(message)?,
            program: None,
            name: None,
        };
        for (attribute, value) in attributes(message.get(Header::LENGTH..)?) {
            match attribute {
                TCA_CHAIN => filter.chain = u32_at(value, 0)?,
                TCA_OPTIONS if filter.kind == "bpf" => {
                    for (option, value) in attributes(value) {
                        match option {
                            TCA_BPF_ID => filter.program = Some(u32_at(value, 0)?),
                            TCA_BPF_NAME => filter.name = Some(text(value)),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(filter)
    }
}

/// `struct tcmsg`.
struct Header {
    device: u32,
    handle: u32,
    parent: u32,
    info: u32,
}

impl Header {
    const LENGTH: usize = 20;

    fn parse(message: &[u8]) -> Option<Self> {
        Some(Self {
            device: u32_at(message, 4)?,
            handle: u32_at(message, 8)?,
            parent: u32_at(message, 12)?,
            info: u32_at(message, 16)?,
        })
    }
}

/// One question or order: `struct nlmsghdr` and `struct tcmsg` without attributes.
struct Request {
    kind: u16,
    flags: u16,
    device: u32,
    handle: u32,
    parent: u32,
}

impl Request {
    const LENGTH: usize = NLMSG_HEADER + Header::LENGTH;

    /// Sends it and passes each message of the answer, by its type and without its header, to `take`.
    fn send(&self, take: impl FnMut(u16, &[u8]) -> io::Result<()>) -> io::Result<()> {
        netlink::exchange(SockProtocol::NetlinkRoute, &self.bytes(), take)
    }

    fn bytes(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..4].copy_from_slice(&(Self::LENGTH as u32).to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | self.flags).to_ne_bytes());
        let message = &mut bytes[NLMSG_HEADER..];
        message[4..8].copy_from_slice(&self.device.to_ne_bytes());
        message[8..12].copy_from_slice(&self.handle.to_ne_bytes());
        message[12..16].copy_from_slice(&self.parent.to_ne_bytes());
        bytes
    }
}

fn kind_of(message: &[u8]) -> Option<String> {
    attributes(message.get(Header::LENGTH..)?)
        .find(|(attribute, _)| *attribute == TCA_KIND)
        .map(|(_, value)| text(value))
}

/// A string that ends with a NUL.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;

/// Where a clsact qdisc, or an `ingress` one, hangs on a device.
const TC_H_CLSACT: u32 = 0xffff_fff1;
/// The handle that either has.
const CLSACT_HANDLE: u32 = 0xffff_0000;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(attribute: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(attribute.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn listed_filter() -> Vec<u8> {
        let mut message = vec![0; 4];
        message.extend(3_u32.to_ne_bytes());
        message.extend(7_u32.to_ne_bytes());
        message.extend(0xffff_fff3_u32.to_ne_bytes());
        message.extend((1 << 16 | u32::from(0x0003_u16.to_be())).to_ne_bytes());
        message.extend(attribute(TCA_KIND, b"bpf\0"));
        message.extend(attribute(TCA_CHAIN, &5_u32.to_ne_bytes()));
        let mut options = attribute(TCA_BPF_NAME, b"guard_device\0");
        options.extend(attribute(TCA_BPF_ID, &42_u32.to_ne_bytes()));
        // With the flag that the kernel sets on nested attributes.
        message.extend(attribute(TCA_OPTIONS | 0x8000, &options));
        message
    }

    #[test]
    fn a_listed_filter_is_read_with_its_program() {
        let expected = Filter {
            priority: 1,
            protocol: 3,
            handle: 7,
            chain: 5,
            kind: "bpf".to_owned(),
            program: Some(42),
            name: Some("guard_device".to_owned()),
        };
        assert_eq!(Filter::parse(&listed_filter()), Some(expected));
    }

    #[test]
    fn a_filter_cut_short_anywhere_is_no_panic() {
        let message = listed_filter();
        for length in 0..message.len() {
            let parsed = Filter::parse(&message[..length]);
            assert_eq!(parsed.is_some(), length >= Header::LENGTH + 8, "{length}");
        }
    }

    #[test]
    fn the_loopback_has_no_clsact_qdisc_of_its_own() {
        // Any namespace has it, and no right is needed to ask.
        assert_eq!(hook_qdisc(1).unwrap(), None);
        assert_eq!(filters(1, Side::Egress).unwrap(), []);
    }
}
