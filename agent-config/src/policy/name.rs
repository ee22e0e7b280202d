//! DNS names, as egress rules have them.

use std::borrow::Borrow;
use std::fmt;
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

    /// What the name ends in, the longest first: of `a.b.c` that is `b.c` and `c`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        let dots = self.0.match_indices('.');
        dots.filter_map(|(dot, _)| self.0.get(dot + 1..))
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

/// Which names an egress rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This one, which the agent looks up.
    Exact(DnsName),
    /// All below this one, `*.example.com`: those that the workload's own programs look up. One label or
    /// several; not the name itself.
    Below(DnsName),
}

impl FromStr for NamePattern {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, DnsNameError> {
        match text.strip_prefix("*.") {
            Some(parent) if !parent.contains('*') => Ok(Self::Below(parent.parse()?)),
            None if !text.contains('*') => Ok(Self::Exact(text.parse()?)),
            Some(_) | None => Err(DnsNameError::Wildcard),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Below(parent) => write!(f, "*.{parent}"),
        }
    }
}

impl serde::Serialize for NamePattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a [`DnsName`] or a [`NamePattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    /// Not of labels, or too long.
    #[error("is not a DNS name; write it as db.example.com, or *.example.com for all below it")]
    NotAName,
    /// It ends in a number, as no name does.
    #[error("is an address or a mistaken one, not a DNS name; write addresses as cidr")]
    Address,
    /// A star elsewhere than before the first dot.
    #[error("has a star that stands for less than a whole first label; write *.example.com")]
    Wildcard,
}

/// Longest label (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// Longest name as text, without the final dot (RFC 1035 section 2.3.4).
const LONGEST_DNS_NAME: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_all_below_one() {
        for (text, printed) in [
            ("db.example.com", "db.example.com"),
            ("DB.Example.com.", "db.example.com"),
            ("db", "db"),
            ("_svc.x-y.internal", "_svc.x-y.internal"),
            ("*.example.com", "*.example.com"),
            ("*.com", "*.com"),
        ] {
            let pattern: NamePattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        use DnsNameError::{Address, NotAName, Wildcard};
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
            ("*", Wildcard),
            ("*.", NotAName),
            ("*.*.com", Wildcard),
            ("a.*.com", Wildcard),
            ("a*.com", Wildcard),
            ("*a.com", Wildcard),
        ] {
            assert_eq!(text.parse::<NamePattern>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn the_parents_of_a_name_are_what_it_ends_in() {
        let name: DnsName = "a.b.example.com".parse().unwrap();
        let parents: Vec<_> = name.parents().collect();
        assert_eq!(parents, ["b.example.com", "example.com", "com"]);
    }
}
