//! Where an egress rule points: a network and a range of ports.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IPv4 or IPv6 network, such as `10.0.0.0/8`; a bare address is a network of one.
///
/// A v4-mapped network (`::ffff:10.0.0.0/104`) is the IPv4 network that it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The network of this many leading bits that `address` lies in; no more than it has. A v4-mapped
    /// address counts as the IPv4 address.
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let prefix = prefix.min(32);
                Self {
                    network: mask_v4(address, prefix).into(),
                    prefix,
                }
            }
            IpAddr::V6(address) => {
                let prefix = prefix.min(128);
                Self {
                    network: mask_v6(address, prefix).into(),
                    prefix,
                }
            }
        }
    }

    /// Whether every address of `other` lies in the network.
    pub(super) fn contains(self, other: Self) -> bool {
        self.prefix <= other.prefix && Self::around(other.network, self.prefix) == self
    }

    /// The first address of the network.
    pub fn network(self) -> IpAddr {
        self.network
    }

    /// How many leading bits are fixed: 0 to 32 (IPv4) or 128 (IPv6).
    pub fn prefix(self) -> u8 {
        self.prefix
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(prefix) => decimal(prefix)
                .and_then(|prefix| u8::try_from(prefix).ok())
                .filter(|prefix| *prefix <= longest)
                .ok_or(CidrError::Prefix { longest })?,
        };
        let network = match address {
            IpAddr::V4(v4) => IpAddr::V4(mask_v4(v4, prefix)),
            IpAddr::V6(v6) => IpAddr::V6(mask_v6(v6, prefix)),
        };
        if network != address {
            return Err(CidrError::HostBits(unmapped(network, prefix)));
        }
        Ok(unmapped(network, prefix))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl serde::Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a [`Cidr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// The part before the slash is not an address.
    #[error(
        "is not an IPv4 or IPv6 network; write it as 10.0.0.0/8, fd00::/8 or 192.0.2.7, and a DNS name as name"
    )]
    Address,
    /// The part after the slash is not a number of bits.
    #[error("has no valid prefix length; write a number from 0 to {longest} after the slash")]
    Prefix {
        /// 32 for IPv4, 128 for IPv6.
        longest: u8,
    },
    /// Bits behind the prefix are set, so that either the address or the prefix is a mistake.
    #[error("has bits set behind its prefix; write {0} for the network, or leave the prefix out")]
    HostBits(Cidr),
}

/// Ports from `first` to `last`, both included; never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };

    /// Whether `port` lies in the range.
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether some port lies in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether every port of `other` lies in the range.
    pub(super) fn contains_all(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether `other` holds every port of `self` and more.
    pub fn is_narrower_than(self, other: Self) -> bool {
        self != other && other.contains_all(self)
    }

    /// How many ports lie in the range.
    pub fn width(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

impl FromStr for PortRange {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (first, last) = match text.split_once('-') {
            Some((first, last)) if !first.is_empty() => (port(first)?, port(last)?),
            _ => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(PortError::Backwards { first, last });
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

impl serde::Serialize for PortRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a [`PortRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a number, or a number that no port has.
    #[error("is not a port; ports are 1 to 65535")]
    NotAPort,
    /// The range ends before it begins.
    #[error("runs backwards; write {last}-{first}")]
    Backwards {
        /// The number before the dash.
        first: u16,
        /// The number behind it.
        last: u16,
    },
}

fn port(text: &str) -> Result<u16, PortError> {
    decimal(text)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port != 0)
        .ok_or(PortError::NotAPort)
}

/// `str::parse` would also take a plus sign.
fn decimal(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn mask_v4(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

fn mask_v6(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

/// A mapped network shorter than /96 also holds addresses that are not mapped, so it stays IPv6.
fn unmapped(network: IpAddr, prefix: u8) -> Cidr {
    match (network.to_canonical(), prefix) {
        (IpAddr::V4(v4), 96..) => Cidr {
            network: IpAddr::V4(v4),
            prefix: prefix - 96,
        },
        _ => Cidr { network, prefix },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_prints_with_its_prefix() {
        for (text, printed) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("fd00::1", "fd00::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(cidr(text).to_string(), printed);
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_the_reason() {
        for text in [
            "",
            "x",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "example.com/8",
            "fe80::1%eth0",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Address), "{text}");
        }
        for text in [
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(
                text.parse::<Cidr>(),
                Err(CidrError::Prefix { longest: 32 }),
                "{text}"
            );
        }
        assert_eq!(
            "::/129".parse::<Cidr>(),
            Err(CidrError::Prefix { longest: 128 })
        );
        assert_eq!(
            "10.0.0.1/8".parse::<Cidr>(),
            Err(CidrError::HostBits(cidr("10.0.0.0/8")))
        );
    }

    #[test]
    fn a_mapped_address_lies_in_the_ipv4_network_and_in_no_ipv6_network() {
        let mapped: IpAddr = "::ffff:10.1.2.3".parse().unwrap();
        let around = |address, prefix| Cidr::around(address, prefix).to_string();
        assert_eq!(around(mapped, 8), "10.0.0.0/8");
        assert_eq!(around(mapped, 0), "0.0.0.0/0");
        assert_eq!(around("fd00::1".parse().unwrap(), 7), "fc00::/7");
        assert_eq!(around("fd00::1".parse().unwrap(), 255), "fd00::1/128");
    }

    #[test]
    fn ports_are_one_to_65535() {
        for text in [
            "0", "65536", "-1", "x", "", "+80", "80-", "0-80", "80-65536", "1-2-3",
        ] {
            assert_eq!(
                text.parse::<PortRange>(),
                Err(PortError::NotAPort),
                "{text}"
            );
        }
        let backwards = PortError::Backwards {
            first: 90,
            last: 80,
        };
        assert_eq!("90-80".parse::<PortRange>(), Err(backwards));
        assert_eq!("1-65535".parse::<PortRange>(), Ok(PortRange::ALL));
        assert_eq!(PortRange::ALL.width(), 65535);
    }
}
