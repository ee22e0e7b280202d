use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

/// A host name that one workload can own: no wildcard, lower case, RFC 1034 preferred syntax as
/// RFC 5280 demands of certificates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

impl DnsName {
    /// Parses `name`, in any case.
    pub fn parse(name: &str) -> Result<Self, DnsNameError> {
        if name.contains('*') {
            return Err(DnsNameError::Wildcard);
        }
        if name.parse::<Ipv4Addr>().is_ok() {
            return Err(DnsNameError::Address);
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(DnsNameError::TooLong { bytes: name.len() });
        }
        name.split('.').try_for_each(check_label)?;
        Ok(Self(name.to_ascii_lowercase()))
    }

    /// The name in lower case, without a final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = DnsNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why a text is not a host name for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DnsNameError {
    /// A `*`.
    #[error("a workload has no wildcard names, or it could pose as its neighbours; list each name")]
    Wildcard,
    /// An IPv4 address.
    #[error("an address is not a host name; list it among the IP addresses")]
    Address,
    /// Longer than DNS allows.
    #[error("a host name has at most {MAX_NAME_BYTES} bytes, this one has {bytes}")]
    TooLong {
        /// Length of the name.
        bytes: usize,
    },
    /// Nothing, two dots in a row, or a dot at either end.
    #[error("a label of the host name is empty")]
    EmptyLabel,
    /// A label longer than DNS allows.
    #[error("a label of a host name has at most {MAX_LABEL_BYTES} bytes, this one has {bytes}")]
    LabelTooLong {
        /// Length of the label.
        bytes: usize,
    },
    /// A hyphen at either end of a label.
    #[error("a label of a host name neither begins nor ends with `-`")]
    Hyphen,
    /// An underscore, a colon, a letter that is not ASCII, and so on.
    #[error("a host name consists of a-z, 0-9, `-` and `.`; found {found:?}")]
    Character {
        /// The first character that is not allowed.
        found: char,
    },
}

fn check_label(label: &str) -> Result<(), DnsNameError> {
    let foreign = |c: &char| !c.is_ascii_alphanumeric() && *c != '-';
    if label.is_empty() {
        return Err(DnsNameError::EmptyLabel);
    }
    if let Some(found) = label.chars().find(foreign) {
        return Err(DnsNameError::Character { found });
    }
    if label.len() > MAX_LABEL_BYTES {
        return Err(DnsNameError::LabelTooLong { bytes: label.len() });
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(DnsNameError::Hyphen);
    }
    Ok(())
}

const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_accepted_and_lower_cased() {
        for (text, name) in [
            ("web", "web"),
            ("Web.Default.svc", "web.default.svc"),
            ("a-1.2b", "a-1.2b"),
        ] {
            assert_eq!(DnsName::parse(text).unwrap().as_str(), name);
        }
    }

    #[test]
    fn wildcards_are_refused() {
        for text in ["*", "*.example.com", "w*.example.com", "a.*.b"] {
            assert_eq!(DnsName::parse(text), Err(DnsNameError::Wildcard), "{text}");
        }
    }

    #[test]
    fn what_no_certificate_may_name_is_refused() {
        for (text, why) in [
            ("", DnsNameError::EmptyLabel),
            ("web.", DnsNameError::EmptyLabel),
            ("a..b", DnsNameError::EmptyLabel),
            ("10.0.0.1", DnsNameError::Address),
            ("a_b", DnsNameError::Character { found: '_' }),
            ("::1", DnsNameError::Character { found: ':' }),
            ("a\0b", DnsNameError::Character { found: '\0' }),
            ("-a", DnsNameError::Hyphen),
            ("a-.b", DnsNameError::Hyphen),
            (&"a".repeat(64), DnsNameError::LabelTooLong { bytes: 64 }),
            (&"a.".repeat(127), DnsNameError::TooLong { bytes: 254 }),
        ] {
            assert_eq!(DnsName::parse(text), Err(why), "{text}");
        }
    }
}
