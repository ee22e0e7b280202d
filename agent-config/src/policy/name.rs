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
            return Err(DnsNameError::Wildcard);
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

/// Why a text is not a [`DnsName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    /// Not of labels, or too long.
    #[error("is not a DNS name; write it as db.example.com")]
    NotAName,
    /// It ends in a number, as no name does.
    #[error("is an address or a mistaken one, not a DNS name; write addresses as cidr")]
    Address,
    /// A star: the names that it stands for can't be looked up.
    #[error(
        "has a star, and only whole names can be looked up; give each name a rule, or write cidr"
    )]
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
            ("*.", Wildcard),
            ("*.example.com", Wildcard),
            ("*.*.com", Wildcard),
            ("a.*.com", Wildcard),
            ("a*.com", Wildcard),
            ("*a.com", Wildcard),
        ] {
            assert_eq!(text.parse::<DnsName>(), Err(expected), "{text}");
        }
    }
}
