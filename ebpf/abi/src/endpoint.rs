use crate::pod;

/// An IP address and a TCP port.
///
/// IPv4 is kept in its v4-mapped form (RFC 4291 section 2.5.5.2), so that one address has one
/// representation whatever family the program's socket has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The address as four words in network byte order, as the kernel's contexts hold it.
    pub ip: [u32; 4],
    /// The port in host byte order.
    pub port: u32,
}

pod!(Endpoint);
const _: () = assert!(size_of::<Endpoint>() == 20);

/// The third word of a v4-mapped address, in network byte order.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Endpoint {
    /// An endpoint from an IPv4 address word in network byte order.
    #[inline(always)]
    pub const fn v4(ip: u32, port: u32) -> Self {
        Self {
            ip: [0, 0, MAPPED, ip],
            port,
        }
    }

    /// An endpoint from the four words of an IPv6 address in network byte order.
    #[inline(always)]
    pub const fn v6(ip: [u32; 4], port: u32) -> Self {
        Self { ip, port }
    }

    /// Whether the address is an IPv4 one in its mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.ip[0] == 0 && self.ip[1] == 0 && self.ip[2] == MAPPED
    }

    /// Whether connecting to the address stays on the loopback interface: 127.0.0.0/8, `::1`, and
    /// the unspecified addresses, which Linux takes for the loopback.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return self.ip[3].to_be() >> 24 == 127 || self.ip[3] == 0;
        }
        self.ip[0] == 0
            && self.ip[1] == 0
            && self.ip[2] == 0
            && (self.ip[3] == 1_u32.to_be() || self.ip[3] == 0)
    }

    /// Whether the address is `0.0.0.0` or `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.ip[3] == 0 && self.ip[0] == 0 && self.ip[1] == 0 && (self.ip[2] == 0 || self.is_v4())
    }
}

impl From<core::net::SocketAddr> for Endpoint {
    fn from(address: core::net::SocketAddr) -> Self {
        let octets = match address.ip() {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        };
        let word =
            |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
        Self {
            ip: [word(0), word(4), word(8), word(12)],
            port: u32::from(address.port()),
        }
    }
}

impl From<Endpoint> for core::net::SocketAddr {
    /// The address in its canonical form: IPv4 where the endpoint is v4-mapped.
    fn from(endpoint: Endpoint) -> Self {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(endpoint.ip) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        let ip = core::net::Ipv6Addr::from(octets).to_canonical();
        Self::new(ip, endpoint.port as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;
    use core::net::SocketAddr;

    fn endpoint(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().unwrap().into()
    }

    #[test]
    fn an_address_survives_the_way_there_and_back() {
        for text in ["10.1.2.3:80", "[fd00::7]:65535", "127.0.0.1:1", "[::1]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Endpoint::from(address)), address);
        }
    }

    #[test]
    fn a_v4_mapped_address_is_the_ipv4_address() {
        assert_eq!(endpoint("[::ffff:10.1.2.3]:80"), endpoint("10.1.2.3:80"));
        assert_eq!(
            Endpoint::v4(u32::from_ne_bytes([10, 1, 2, 3]), 80),
            endpoint("10.1.2.3:80")
        );
    }

    #[test]
    fn loopback_is_127_slash_8_and_one_and_the_unspecified_addresses() {
        for text in [
            "127.0.0.1:1",
            "127.255.0.9:1",
            "[::1]:1",
            "0.0.0.0:1",
            "[::]:1",
        ] {
            assert!(endpoint(text).is_loopback(), "{text}");
        }
        for text in [
            "128.0.0.1:1",
            "10.127.0.1:1",
            "[::2]:1",
            "[fd00::1]:1",
            "[100::1]:1",
        ] {
            assert!(!endpoint(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn only_the_unspecified_addresses_are_unspecified() {
        assert!(endpoint("0.0.0.0:1").is_unspecified());
        assert!(endpoint("[::]:1").is_unspecified());
        assert!(!endpoint("127.0.0.0:1").is_unspecified());
        assert!(!endpoint("[::1]:1").is_unspecified());
    }
}
