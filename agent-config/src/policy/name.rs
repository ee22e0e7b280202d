//! DNS names, as egress rules have them.

use std::borrow::Borrow;
use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;

/// A name of the DNS in lower case, without the final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(Arc<str>);

impl DnsName {
    /// As it is written in rules.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of the labels of a message, which may hold any byte: what no rule can be written with is escaped
    /// as in master files (RFC 1035 section 5.1), a dot within a label too.
    pub fn of_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut name = String::new();
        for label in labels {
            if !name.is_empty() {
                name.push('.');
            }
            for byte in label {
                match byte {
                    b'-' | b'_' => name.push(char::from(*byte)),
                    _ if byte.is_ascii_alphanumeric() => {
                        name.push(char::from(byte.to_ascii_lowercase()));
                    }
                    _ => {
                        let _ = write!(name, "\\{byte:03}");
                    }
                }
            }
        }
        Self(name.into())
    }

    /// The names that it is below, the nearest first.
    pub(super) fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('.').map(|(dot, _)| &self.0[dot + 1..])
    }
}

/// A name is looked up by its text.
impl Borrow<str> for DnsName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, DnsNameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            (1..=LONGEST_LABEL).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if name.contains('*') {
            return Err(DnsNameError::Star);
        }
        if name.len() > LONGEST_DNS_NAME || !name.split('.').all(is_label) {
            return Err(DnsNameError::NotAName);
        }
        // The last label of a name is never a number (RFC 3696 section 2): `10.0.0.256` is a mistake.
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DnsNameError::Address);
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl serde::Serialize for DnsName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The names that an egress rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NamePattern {
    /// One name.
    Name(DnsName),
    /// Every name below this one, at any depth, and not the name itself.
    Below(DnsName),
}

impl NamePattern {
    /// The name, where it is one.
    pub fn name(&self) -> Option<&DnsName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Below(_) => None,
        }
    }

    /// Whether a name is one of these.
    pub(super) fn has(&self, name: &DnsName) -> bool {
        match self {
            Self::Name(exact) => exact == name,
            Self::Below(parent) => name.parents().any(|it| it == parent.as_str()),
        }
    }

    /// Greater where fewer names match, of those that match one name.
    pub(super) fn specificity(&self) -> usize {
        match self {
            Self::Name(_) => usize::MAX,
            Self::Below(parent) => parent.as_str().len(),
        }
    }
}

impl FromStr for NamePattern {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, DnsNameError> {
        match text.strip_prefix('*') {
            Some("" | ".") => Err(DnsNameError::EveryName),
            Some(rest) => match rest.strip_prefix('.') {
                Some(parent) => parent.parse().map(Self::Below),
                None => Err(DnsNameError::Star),
            },
            None => text.parse().map(Self::Name),
        }
    }
}

/// As it is written in rules.
impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Below(parent) => write!(f, "*.{parent}"),
        }
    }
}

impl serde::Serialize for NamePattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a [`NamePattern`], or not a [`DnsName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    /// Not of labels, or too long.
    #[error("is not a DNS name; write it as db.example.com")]
    NotAName,
    /// It ends in a number, as no name does.
    #[error("is an address or a mistaken one, not a DNS name; write addresses as cidr")]
    Address,
    /// A star that is not the whole first label.
    #[error(
        "has a star that is not the whole first label; write *.example.com for every name below \
         example.com"
    )]
    Star,
    /// Nothing but a star.
    #[error(
        "would be every name there is; write cidr = \"0.0.0.0/0\" and cidr = \"::/0\" for every address"
    )]
    EveryName,
}

/// Longest label (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// Longest name as text, without the final dot (RFC 1035 section 2.3.4).
const LONGEST_DNS_NAME: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_in_lower_case_without_the_final_dot() {
        for (text, printed) in [
            ("db.example.com", "db.example.com"),
            ("DB.Example.com.", "db.example.com"),
            ("db", "db"),
            ("_svc.x-y.internal", "_svc.x-y.internal"),
        ] {
            let name: DnsName = text.parse().unwrap();
            assert_eq!(name.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        use DnsNameError::{Address, NotAName, Star};
        let long_label = "a".repeat(64);
        let long_name = "a.".repeat(127) + "com";
        for (text, expected) in [
            ("", NotAName),
            (".", NotAName),
            ("a..b", NotAName),
            ("-a.com", NotAName),
            ("a-.com", NotAName),
            ("a b.com", NotAName),
            ("bücher.example", NotAName),
            ("db:5432", NotAName),
            (&long_label, NotAName),
            (&long_name, NotAName),
            ("10.0.0.1", Address),
            ("10.0.0.256", Address),
            ("a.1", Address),
            ("*.example.com", Star),
            ("a*.com", Star),
        ] {
            assert_eq!(text.parse::<DnsName>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_star_is_the_whole_first_label_or_a_mistake() {
        use DnsNameError::{Address, EveryName, NotAName, Star};
        for (text, expected) in [
            ("db.example.com", Ok("db.example.com")),
            ("*.Example.com.", Ok("*.example.com")),
            ("*.com", Ok("*.com")),
            ("*._tcp.db", Ok("*._tcp.db")),
            ("*", Err(EveryName)),
            ("*.", Err(EveryName)),
            ("*..", Err(NotAName)),
            ("*example.com", Err(Star)),
            ("**.example.com", Err(Star)),
            ("*.*.com", Err(Star)),
            ("a.*.com", Err(Star)),
            ("a*.com", Err(Star)),
            ("*.a..b", Err(NotAName)),
            ("*.10", Err(Address)),
        ] {
            let pattern = text.parse::<NamePattern>();
            let printed = pattern.map(|pattern| pattern.to_string());
            assert_eq!(printed, expected.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn what_a_message_calls_a_name_can_not_pose_as_another() {
        for (labels, printed, parents) in [
            (&[&b"A"[..], b"Db", b"example"][..], "a.db.example", 2),
            (&[b"a.db", b"example"], "a\\046db.example", 1),
            (&[b"a\\", b"\xff b"], "a\\092.\\255\\032b", 1),
            (&[b"*", b"db"], "\\042.db", 1),
            (&[], "", 0),
        ] {
            let name = DnsName::of_labels(labels.iter().copied());
            assert_eq!(name.to_string(), printed);
            assert_eq!(name.parents().count(), parents, "{printed}");
        }
    }
}
