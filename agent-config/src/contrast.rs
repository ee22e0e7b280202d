//! Contrast's configuration strings, in the grammar of its service mesh.
//!
//! ```text
//! list    = entry *( "##" entry )          pieces that are empty are passed over
//! ingress = name "#" port "#" disable-tls  or the whole value DISABLED
//! egress  = name "#" listen "#" remote
//! ```
//!
//! Names are for people; nothing depends on them. What Contrast accepts on purpose means the same here. What it takes by accident is a mistake: ports
//! that wrap around at 65536, port 0, the same port or listener twice.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::policy::DnsName;

/// What an ingress string says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IngressString {
    /// `DISABLED`: no port is protected.
    Disabled,
    /// Exceptions; every other port takes mutual TLS.
    Ports(Vec<At<IngressEntry>>),
}

/// `name#port#disable-tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IngressEntry {
    pub(super) port: NonZeroU16,
    /// The port is not redirected; else it takes TLS without a client's certificate.
    pub(super) disable_tls: bool,
}

/// `name#127.x.y.z:port#host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EgressEntry {
    pub(super) listen: SocketAddrV4,
    pub(super) remote: Remote,
}

/// Where a listener's connections go: a name that is looked up for each, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    /// The host.
    pub host: Host,
    /// Its port.
    pub port: NonZeroU16,
}

/// A host as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name.
    Name(String),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host {
            Host::Name(name) => write!(f, "{name}:{port}"),
            Host::V4(address) => write!(f, "{address}:{port}"),
            Host::V6(address) => write!(f, "[{address}]:{port}"),
        }
    }
}

/// Something in a string, and where: both count from 1, the column in characters of the whole value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) entry: usize,
    pub(super) column: usize,
    pub(super) value: T,
}

/// What is wrong with an entry, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages are the documentation, and name every field"
)]
pub enum EntryError {
    #[error("`{got}` has {parts} parts instead of 3; write {form}")]
    Parts {
        got: String,
        parts: usize,
        form: &'static str,
    },
    #[error("`DISABLED` stands for the whole value; write it alone, or {form}")]
    DisabledInList { form: &'static str },
    #[error("port `{got}` is not a port; ports are 1 to 65535")]
    Port { got: String },
    #[error(
        "`{got}` does not say whether TLS is off; write false (TLS without a client certificate) or \
         true (not protected), or leave the entry out (mutual TLS)"
    )]
    DisableTls { got: String },
    #[error("listen address `{got}` is not an address with a port; write 127.x.y.z:port")]
    Listen { got: String },
    #[error("listen address {got} is not in 127.0.0.0/8; choose one there, such as 127.137.0.1")]
    NotLoopback { got: SocketAddr },
    #[error(
        "remote `{got}` is not a host with a port; write host:port, an IPv6 address as [address]:port"
    )]
    Remote { got: String },
    #[error("remote host `{got}` is neither a DNS name nor an IP address")]
    Host { got: String },
    #[error("port {port} stands in entry {first} already; keep one of the two")]
    DuplicatePort { port: NonZeroU16, first: usize },
    #[error("port {port} is `{one}` here and `{other}` in entry {first}; keep one of the two")]
    Contradiction {
        port: NonZeroU16,
        one: bool,
        other: bool,
        first: usize,
    },
    #[error("listener {listen} stands in entry {first} already; keep one of the two")]
    DuplicateListener { listen: SocketAddrV4, first: usize },
}

/// Reads an ingress string; every mistake at once.
pub(super) fn ingress(value: &str) -> Result<IngressString, Vec<At<EntryError>>> {
    if value == DISABLED {
        return Ok(IngressString::Disabled);
    }
    let mut seen: Vec<At<IngressEntry>> = Vec::new();
    let mut mistakes = Vec::new();
    for entry in entries(value) {
        let Some([_, port, disable_tls]) = entry.parts(INGRESS_FORM, &mut mistakes) else {
            continue;
        };
        let parsed = port.try_map(parse_port, &mut mistakes);
        let disabled = disable_tls.try_map(parse_bool, &mut mistakes);
        let (Some(parsed), Some(disabled)) = (parsed, disabled) else {
            continue;
        };
        let (number, disable_tls) = (parsed.value, disabled.value);
        if let Some(first) = seen.iter().find(|it| it.value.port == number) {
            let other = first.value.disable_tls;
            let first = first.entry;
            let mistake = if other == disable_tls {
                EntryError::DuplicatePort {
                    port: number,
                    first,
                }
            } else {
                EntryError::Contradiction {
                    port: number,
                    one: disable_tls,
                    other,
                    first,
                }
            };
            mistakes.push(parsed.with(mistake));
            continue;
        }
        seen.push(parsed.with(IngressEntry {
            port: number,
            disable_tls,
        }));
    }
    none_or(mistakes, IngressString::Ports(seen))
}

/// Reads an egress string; every mistake at once.
pub(super) fn egress(value: &str) -> Result<Vec<At<EgressEntry>>, Vec<At<EntryError>>> {
    let mut seen: Vec<At<EgressEntry>> = Vec::new();
    let mut mistakes = Vec::new();
    for entry in entries(value) {
        let Some([name, listen, remote]) = entry.parts(EGRESS_FORM, &mut mistakes) else {
            continue;
        };
        let place = listen;
        let listen = listen.try_map(parse_listen, &mut mistakes);
        let remote = remote.try_map(parse_remote, &mut mistakes);
        let (Some(listen), Some(remote)) = (listen, remote) else {
            continue;
        };
        let listen = listen.value;
        if let Some(first) = seen.iter().find(|it| it.value.listen == listen) {
            let first = first.entry;
            mistakes.push(place.with(EntryError::DuplicateListener { listen, first }));
            continue;
        }
        seen.push(name.with(EgressEntry {
            listen,
            remote: remote.value,
        }));
    }
    none_or(mistakes, seen)
}

fn none_or<T>(mistakes: Vec<At<EntryError>>, value: T) -> Result<T, Vec<At<EntryError>>> {
    if mistakes.is_empty() {
        Ok(value)
    } else {
        Err(mistakes)
    }
}

/// The pieces between `##`, but for empty ones.
fn entries(value: &str) -> impl Iterator<Item = At<&str>> {
    let mut column = 1;
    let pieces = value.split("##").map(move |piece| {
        let at = column;
        column += piece.chars().count() + "##".len();
        (at, piece)
    });
    let named = pieces.filter(|(_, piece)| !piece.is_empty());
    named.zip(1..).map(|((column, value), entry)| At {
        entry,
        column,
        value,
    })
}

impl<'a> At<&'a str> {
    /// What stands between the three `#`.
    fn parts(
        self,
        form: &'static str,
        mistakes: &mut Vec<At<EntryError>>,
    ) -> Option<[At<&'a str>; 3]> {
        let mut column = self.column;
        let parts: Vec<_> = self
            .value
            .split('#')
            .map(|part| {
                let at = Self {
                    column,
                    value: part,
                    ..self
                };
                column += part.chars().count() + 1;
                at
            })
            .collect();
        if let Ok(parts) = parts.as_slice().try_into() {
            return Some(parts);
        }
        let mistake = if self.value == DISABLED {
            EntryError::DisabledInList { form }
        } else {
            EntryError::Parts {
                got: shown(self.value),
                parts: parts.len(),
                form,
            }
        };
        mistakes.push(self.with(mistake));
        None
    }

    fn try_map<T>(
        self,
        parse: fn(&str) -> Result<T, EntryError>,
        mistakes: &mut Vec<At<EntryError>>,
    ) -> Option<At<T>> {
        match parse(self.value) {
            Ok(value) => Some(self.with(value)),
            Err(mistake) => {
                mistakes.push(self.with(mistake));
                None
            }
        }
    }
}

impl<T> At<T> {
    /// Something else at the same place.
    fn with<U>(&self, value: U) -> At<U> {
        At {
            entry: self.entry,
            column: self.column,
            value,
        }
    }
}

/// As Go's `strconv.Atoi`, which takes a sign and zeros in front, but for what is no port.
fn parse_port(text: &str) -> Result<NonZeroU16, EntryError> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = is_number.then(|| digits.parse().ok()).flatten();
    port.ok_or_else(|| EntryError::Port { got: shown(text) })
}

/// As Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Result<bool, EntryError> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(EntryError::DisableTls { got: shown(text) }),
    }
}

/// As Go's `netip.ParseAddrPort`, which takes zeros in front of the port, but no sign.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddrV4, EntryError> {
    let wrong = || EntryError::Listen { got: shown(text) };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    if port.starts_with('+') {
        return Err(wrong());
    }
    let port = parse_port(port)?.get();
    if let Ok(ip) = Ipv4Addr::from_str(host) {
        return if ip.is_loopback() {
            Ok(SocketAddrV4::new(ip, port))
        } else {
            let got = SocketAddr::from((ip, port));
            Err(EntryError::NotLoopback { got })
        };
    }
    match bracketed(host).map(Ipv6Addr::from_str) {
        Some(Ok(ip)) => {
            let got = SocketAddr::from((ip, port));
            Err(EntryError::NotLoopback { got })
        }
        _ => Err(wrong()),
    }
}

/// As Go's `net.SplitHostPort`, and a host that can be looked up.
pub(super) fn parse_remote(text: &str) -> Result<Remote, EntryError> {
    let wrong = || EntryError::Remote { got: shown(text) };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_bracketed = host.starts_with('[') || host.ends_with(']');
    let inner = if is_bracketed {
        bracketed(host).ok_or_else(wrong)?
    } else {
        host
    };
    if inner.is_empty() || (!is_bracketed && inner.contains(':')) {
        return Err(wrong());
    }
    let port = parse_port(port)?;
    let host = parse_host(inner).ok_or_else(|| EntryError::Host { got: shown(inner) })?;
    Ok(Remote { host, port })
}

fn bracketed(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

fn parse_host(text: &str) -> Option<Host> {
    if let Ok(address) = text.parse() {
        return Some(Host::V4(address));
    }
    if let Ok(address) = text.parse() {
        return Some(Host::V6(address));
    }
    let is_name = text.parse::<DnsName>().is_ok();
    is_name.then(|| Host::Name(text.to_owned()))
}

/// What a message quotes: a value may be a mebibyte.
fn shown(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The whole value that turns ingress off.
const DISABLED: &str = "DISABLED";

const INGRESS_FORM: &str = "name#port#disable-tls, such as web#8080#false";
const EGRESS_FORM: &str = "name#127.x.y.z:port#host:port, such as db#127.137.0.1:5432#db:5432";

/// In characters.
const LONGEST_QUOTE: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    /// Ingress strings that are accepted, and what they say of ports.
    const INGRESS: &[(&str, &[(u16, bool)])] = &[
        ("", &[]),
        ("##", &[]),
        ("####", &[]),
        ("web#8080#false", &[(8080, false)]),
        ("web#8080#true", &[(8080, true)]),
        ("a#1#0##b#2#1", &[(1, false), (2, true)]),
        (
            "a#1#f##b#2#t##c#3#F##d#4#T",
            &[(1, false), (2, true), (3, false), (4, true)],
        ),
        (
            "a#1#FALSE##b#2#TRUE##c#3#False##d#4#True",
            &[(1, false), (2, true), (3, false), (4, true)],
        ),
        ("##a#1#false##", &[(1, false)]),
        ("a#1#false####b#2#true", &[(1, false), (2, true)]),
        ("#80#true", &[(80, true)]),
        ("same#80#true##same#81#true", &[(80, true), (81, true)]),
        ("a#65535#true", &[(65535, true)]),
        ("a#0080#true", &[(80, true)]),
        ("a#+80#true", &[(80, true)]),
        ("ä ö#80#true", &[(80, true)]),
    ];

    /// Ingress strings that are refused: each mistake as entry, column and message.
    const BAD_INGRESS: &[(&str, &[&str])] = &[
        (
            "web",
            &[
                "1:1: `web` has 1 parts instead of 3; write name#port#disable-tls, such as web#8080#false",
            ],
        ),
        (
            "web#80",
            &[
                "1:1: `web#80` has 2 parts instead of 3; write name#port#disable-tls, such as web#8080#false",
            ],
        ),
        (
            "web#80#true#x",
            &[
                "1:1: `web#80#true#x` has 4 parts instead of 3; write name#port#disable-tls, such as web#8080#false",
            ],
        ),
        // Split at `##` first, as Contrast does.
        (
            "a#1#true###b#2#true",
            &[
                "2:11: `#b#2#true` has 4 parts instead of 3; write name#port#disable-tls, such as web#8080#false",
            ],
        ),
        (
            "DISABLED##a#1#true",
            &[
                "1:1: `DISABLED` stands for the whole value; write it alone, or name#port#disable-tls, such as web#8080#false",
            ],
        ),
        (
            "disabled",
            &[
                "1:1: `disabled` has 1 parts instead of 3; write name#port#disable-tls, such as web#8080#false",
            ],
        ),
        (
            " DISABLED",
            &[
                "1:1: ` DISABLED` has 1 parts instead of 3; write name#port#disable-tls, such as web#8080#false",
            ],
        ),
        (
            "a#65616#true",
            &["1:3: port `65616` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#65536#true",
            &["1:3: port `65536` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#-1#true",
            &["1:3: port `-1` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#0#true",
            &["1:3: port `0` is not a port; ports are 1 to 65535"],
        ),
        (
            "a##true",
            &[
                "1:1: `a` has 1 parts instead of 3; write name#port#disable-tls, such as web#8080#false",
                "2:4: `true` has 1 parts instead of 3; write name#port#disable-tls, such as web#8080#false",
            ],
        ),
        (
            "a# 80#true",
            &["1:3: port ` 80` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#http#true",
            &["1:3: port `http` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#0x50#true",
            &["1:3: port `0x50` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#+#true",
            &["1:3: port `+` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#99999999999999999999#true",
            &["1:3: port `99999999999999999999` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#80#yes",
            &[
                "1:6: `yes` does not say whether TLS is off; write false (TLS without a client certificate) or true (not protected), or leave the entry out (mutual TLS)",
            ],
        ),
        (
            "a#80#",
            &[
                "1:6: `` does not say whether TLS is off; write false (TLS without a client certificate) or true (not protected), or leave the entry out (mutual TLS)",
            ],
        ),
        (
            "a#80#true##b#80#true",
            &["2:14: port 80 stands in entry 1 already; keep one of the two"],
        ),
        (
            "a#80#true##b#80#false",
            &["2:14: port 80 is `false` here and `true` in entry 1; keep one of the two"],
        ),
        (
            "a#80#1##b#0080#0",
            &["2:11: port 80 is `false` here and `true` in entry 1; keep one of the two"],
        ),
        (
            "äö#x#y",
            &[
                "1:4: port `x` is not a port; ports are 1 to 65535",
                "1:6: `y` does not say whether TLS is off; write false (TLS without a client certificate) or true (not protected), or leave the entry out (mutual TLS)",
            ],
        ),
    ];

    /// Egress strings that are accepted, as listener and remote.
    const EGRESS: &[(&str, &[(&str, &str)])] = &[
        ("", &[]),
        (
            "db#127.137.0.1:5432#db:5432",
            &[("127.137.0.1:5432", "db:5432")],
        ),
        (
            "a#127.0.0.1:1#x.y.z:2##b#127.255.255.255:65535#10.0.0.1:65535",
            &[
                ("127.0.0.1:1", "x.y.z:2"),
                ("127.255.255.255:65535", "10.0.0.1:65535"),
            ],
        ),
        (
            "a#127.0.0.1:80#[fd00::1]:443",
            &[("127.0.0.1:80", "[fd00::1]:443")],
        ),
        (
            "a#127.0.0.1:80#svc.ns.svc.cluster.local.:443",
            &[("127.0.0.1:80", "svc.ns.svc.cluster.local.:443")],
        ),
        (
            "a#127.0.0.1:80#under_score:1",
            &[("127.0.0.1:80", "under_score:1")],
        ),
        ("a#127.0.0.1:080#h:0443", &[("127.0.0.1:80", "h:443")]),
        (
            "a#127.0.0.1:80#[10.0.0.1]:443",
            &[("127.0.0.1:80", "10.0.0.1:443")],
        ),
        (
            "a#127.0.0.1:80#h:1##a#127.0.0.1:81#h:1",
            &[("127.0.0.1:80", "h:1"), ("127.0.0.1:81", "h:1")],
        ),
    ];

    const BAD_EGRESS: &[(&str, &[&str])] = &[
        (
            "db#127.0.0.1:1",
            &[
                "1:1: `db#127.0.0.1:1` has 2 parts instead of 3; write name#127.x.y.z:port#host:port, such as db#127.137.0.1:5432#db:5432",
            ],
        ),
        (
            "DISABLED",
            &[
                "1:1: `DISABLED` stands for the whole value; write it alone, or name#127.x.y.z:port#host:port, such as db#127.137.0.1:5432#db:5432",
            ],
        ),
        (
            "a#127.0.0.1#h:1",
            &[
                "1:3: listen address `127.0.0.1` is not an address with a port; write 127.x.y.z:port",
            ],
        ),
        (
            "a#localhost:80#h:1",
            &[
                "1:3: listen address `localhost:80` is not an address with a port; write 127.x.y.z:port",
            ],
        ),
        (
            "a#127.0.0.01:80#h:1",
            &[
                "1:3: listen address `127.0.0.01:80` is not an address with a port; write 127.x.y.z:port",
            ],
        ),
        (
            "a#127.0.0.1:+80#h:1",
            &[
                "1:3: listen address `127.0.0.1:+80` is not an address with a port; write 127.x.y.z:port",
            ],
        ),
        (
            "a#10.0.0.1:80#h:1",
            &[
                "1:3: listen address 10.0.0.1:80 is not in 127.0.0.0/8; choose one there, such as 127.137.0.1",
            ],
        ),
        (
            "a#[::1]:80#h:1",
            &[
                "1:3: listen address [::1]:80 is not in 127.0.0.0/8; choose one there, such as 127.137.0.1",
            ],
        ),
        (
            "a#[::ffff:127.0.0.1]:80#h:1",
            &[
                "1:3: listen address [::ffff:127.0.0.1]:80 is not in 127.0.0.0/8; choose one there, such as 127.137.0.1",
            ],
        ),
        (
            "a#127.0.0.1:0#h:1",
            &["1:3: port `0` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#127.0.0.1:65616#h:1",
            &["1:3: port `65616` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#127.0.0.1:80#h",
            &[
                "1:16: remote `h` is not a host with a port; write host:port, an IPv6 address as [address]:port",
            ],
        ),
        (
            "a#127.0.0.1:80#:443",
            &[
                "1:16: remote `:443` is not a host with a port; write host:port, an IPv6 address as [address]:port",
            ],
        ),
        (
            "a#127.0.0.1:80#fd00::1:443",
            &[
                "1:16: remote `fd00::1:443` is not a host with a port; write host:port, an IPv6 address as [address]:port",
            ],
        ),
        (
            "a#127.0.0.1:80#[fd00::1:443",
            &[
                "1:16: remote `[fd00::1:443` is not a host with a port; write host:port, an IPv6 address as [address]:port",
            ],
        ),
        (
            "a#127.0.0.1:80#h:65616",
            &["1:16: port `65616` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#127.0.0.1:80#h:-1",
            &["1:16: port `-1` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#127.0.0.1:80#h:0",
            &["1:16: port `0` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#127.0.0.1:80#h:https",
            &["1:16: port `https` is not a port; ports are 1 to 65535"],
        ),
        (
            "a#127.0.0.1:80#h h:1",
            &["1:16: remote host `h h` is neither a DNS name nor an IP address"],
        ),
        (
            "a#127.0.0.1:80#10.0.0.256:1",
            &["1:16: remote host `10.0.0.256` is neither a DNS name nor an IP address"],
        ),
        (
            "a#127.0.0.1:80#-h.x:1",
            &["1:16: remote host `-h.x` is neither a DNS name nor an IP address"],
        ),
        (
            "a#127.0.0.1:80#h..x:1",
            &["1:16: remote host `h..x` is neither a DNS name nor an IP address"],
        ),
        (
            "a#127.0.0.1:80#*.x:1",
            &["1:16: remote host `*.x` is neither a DNS name nor an IP address"],
        ),
        (
            "a#127.0.0.1:80#h:1##b#127.0.0.1:80#i:2",
            &["2:23: listener 127.0.0.1:80 stands in entry 1 already; keep one of the two"],
        ),
        (
            "a#1.1.1.1:0#x##b#127.0.0.1:1#",
            &[
                "1:3: port `0` is not a port; ports are 1 to 65535",
                "1:13: remote `x` is not a host with a port; write host:port, an IPv6 address as [address]:port",
                "2:30: remote `` is not a host with a port; write host:port, an IPv6 address as [address]:port",
            ],
        ),
    ];

    fn told(mistakes: &[At<EntryError>]) -> Vec<String> {
        let tell = |at: &At<EntryError>| format!("{}:{}: {}", at.entry, at.column, at.value);
        mistakes.iter().map(tell).collect()
    }

    #[test]
    fn ingress_strings_mean_what_they_mean_to_contrast() {
        for (value, expected) in INGRESS {
            let IngressString::Ports(entries) = ingress(value).unwrap() else {
                panic!("{value}");
            };
            let found: Vec<_> = entries
                .iter()
                .map(|at| (at.value.port.get(), at.value.disable_tls))
                .collect();
            assert_eq!(found, *expected, "{value}");
        }
        assert_eq!(ingress("DISABLED"), Ok(IngressString::Disabled));
    }

    #[test]
    fn every_mistake_in_an_ingress_string_is_told_with_its_place() {
        for (value, expected) in BAD_INGRESS {
            assert_eq!(told(&ingress(value).unwrap_err()), *expected, "{value}");
        }
    }

    #[test]
    fn egress_strings_mean_what_they_mean_to_contrast() {
        for (value, expected) in EGRESS {
            let entries = egress(value).unwrap();
            let found: Vec<_> = entries
                .iter()
                .map(|at| (at.value.listen.to_string(), at.value.remote.to_string()))
                .collect();
            let found: Vec<_> = found
                .iter()
                .map(|(a, b)| (a.as_str(), b.as_str()))
                .collect();
            assert_eq!(found, *expected, "{value}");
        }
    }

    #[test]
    fn every_mistake_in_an_egress_string_is_told_with_its_place() {
        for (value, expected) in BAD_EGRESS {
            assert_eq!(told(&egress(value).unwrap_err()), *expected, "{value}");
        }
    }

    #[test]
    fn a_mebibyte_of_separators_is_read_in_no_time_and_quoted_in_part() {
        let separators = "#".repeat(1 << 20);
        assert_eq!(ingress(&separators), Ok(IngressString::Ports(Vec::new())));
        let odd = "#".repeat((1 << 20) + 1);
        let mistakes = ingress(&odd).unwrap_err();
        assert_eq!(mistakes.len(), 1);
        let long = ingress(&"x".repeat(1 << 20)).unwrap_err();
        assert!(told(&long)[0].len() < 250);
    }
}
