//! Where a Coordinator is.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::Serialize;

/// Host and port of a Coordinator's mesh API. The host is an IPv4 address, an IPv6 address in
/// brackets, or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct CoordinatorAddress(String);

impl CoordinatorAddress {
    /// `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CoordinatorAddress {
    type Err = AddressError;

    /// Without a port it is 7777.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(AddressError::Port)
            } else {
                Ok(Self(text.to_owned()))
            };
        }
        if text.contains('/') {
            return Err(AddressError::Url);
        }
        let unbracketed = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if let Ok(address) = unbracketed.unwrap_or(text).parse::<Ipv6Addr>() {
            return Ok(Self(format!("[{address}]:{DEFAULT_PORT}")));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if host.contains([':', '[', ']']) {
            return Err(AddressError::Ipv6);
        }
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || !host.chars().all(is_of_name) {
            return Err(AddressError::Host);
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => number(port).ok_or(AddressError::Port)?,
        };
        Ok(Self(format!("{host}:{port}")))
    }
}

impl fmt::Display for CoordinatorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn number(port: &str) -> Option<u16> {
    let is_digits = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse()
        .ok()
        .filter(|&port: &u16| is_digits && port != 0)
}

/// Why a text is not a [`CoordinatorAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A scheme or a path.
    #[error("is a URL; write host:port alone")]
    Url,
    /// An IPv6 address that can't be told from its port, or none at all.
    #[error("is not an IPv6 address with a port; write it as [fd00::1]:7777")]
    Ipv6,
    /// Nothing, or characters that no host name has.
    #[error("has no host name; write coordinator:7777, 192.0.2.7:7777 or [fd00::1]:7777")]
    Host,
    /// Not a port.
    #[error("has no valid port; ports are 1 to 65535, and 7777 if none is written")]
    Port,
}

/// The mesh API's, as Contrast's users know it.
const DEFAULT_PORT: u16 = 7777;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        for (text, address) in [
            ("coordinator", "coordinator:7777"),
            ("coordinator:7778", "coordinator:7778"),
            (
                "coordinator-2.ns.svc.cluster.local.:1",
                "coordinator-2.ns.svc.cluster.local.:1",
            ),
            ("192.0.2.7", "192.0.2.7:7777"),
            ("192.0.2.7:65535", "192.0.2.7:65535"),
            ("fd00::1", "[fd00::1]:7777"),
            ("[fd00::1]", "[fd00::1]:7777"),
            ("[fd00::1]:7778", "[fd00::1]:7778"),
            ("::1", "[::1]:7777"),
        ] {
            let read: CoordinatorAddress = text.parse().unwrap();
            assert_eq!(read.as_str(), address, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", AddressError::Host),
            (":7777", AddressError::Host),
            ("a b:7777", AddressError::Host),
            ("co*", AddressError::Host),
            ("https://coordinator:7777", AddressError::Url),
            ("coordinator:7777/x", AddressError::Url),
            ("coordinator:", AddressError::Port),
            ("coordinator:0", AddressError::Port),
            ("coordinator:+1", AddressError::Port),
            ("coordinator:65536", AddressError::Port),
            ("192.0.2.7:0", AddressError::Port),
            ("[fd00::1]:0", AddressError::Port),
            ("[fd00::1]:x", AddressError::Ipv6),
            ("[fd00::g]:7777", AddressError::Ipv6),
            ("a:b:7777", AddressError::Ipv6),
        ] {
            assert_eq!(text.parse::<CoordinatorAddress>(), Err(reason), "{text}");
        }
    }
}
