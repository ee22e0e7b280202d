//! `peer raw`: what a program can send around its TCP sockets.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};
use testbed::{MARKER, Report};

use crate::{errno, report};

#[derive(Args)]
pub(crate) struct Raw {
    /// The address and port to send from.
    #[arg(long)]
    from: SocketAddr,
    /// The address and port to send to.
    #[arg(long)]
    to: SocketAddr,
}

impl Raw {
    pub(crate) fn run(&self) -> Result<()> {
        let domain = Domain::for_address(self.to);
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
        let mut to = self.to;
        if domain == Domain::IPV6 {
            to.set_port(0); // a raw IPv6 socket takes a protocol there
        }
        let mut segments = 0;
        let mut errors = Vec::new();
        for flags in [SYN, ACK | PSH] {
            match socket.send_to(&self.segment(flags)?, &to.into()) {
                Ok(_) => segments += 1,
                Err(error) => errors.push(errno(&error)),
            }
        }
        report(&Report::Sent { segments, errors })
    }

    /// A TCP segment with the marker as its payload.
    fn segment(&self, flags: u8) -> Result<Vec<u8>> {
        let mut segment = Vec::new();
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(MARKER);
        let checksum = self.checksum(&segment)?.to_be_bytes();
        segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum);
        Ok(segment)
    }

    /// RFC 9293, section 3.1; the pseudo-header of IPv6 adds up as that of IPv4 does.
    fn checksum(&self, segment: &[u8]) -> Result<u16> {
        let mut bytes = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
            _ => bail!("--from and --to are of different families"),
        };
        bytes.extend([0, TCP]);
        bytes.extend(u16::try_from(segment.len())?.to_be_bytes());
        bytes.extend(segment);
        let sum: u32 = bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        Ok(!((folded & 0xffff) + (folded >> 16)) as u16)
    }
}

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CHECKSUM: usize = 16;
