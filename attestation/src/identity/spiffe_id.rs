//! SPIFFE IDs, as in the [SPIFFE-ID specification], section 2.
//!
//! [SPIFFE-ID specification]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The name of a workload (`spiffe://mesh.local/ns/default/sa/web`) or of a whole trust domain
/// (`spiffe://mesh.local`).
///
/// Made only by parsing, so an invalid one cannot be held. Equality is byte equality, which the
/// specification permits because it has no percent-encoding and we accept lower case only where
/// case does not matter. Cloning copies two pointers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Parses the whole of `text`, in its one canonical spelling.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong { bytes: text.len() });
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        let trust_domain = TrustDomain::parse(authority)?;
        if !path.is_empty() {
            check_path(path)?;
        }
        Ok(Self {
            text: text.into(),
            trust_domain,
        })
    }

    /// `spiffe://<trust domain>/ns/<namespace>/sa/<name>`, the form that Kubernetes meshes share.
    pub fn workload(
        trust_domain: &TrustDomain,
        namespace: &str,
        name: &str,
    ) -> Result<Self, SpiffeIdError> {
        check_segment(namespace)?;
        check_segment(name)?;
        Self::parse(&format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{name}"))
    }

    /// The authority that vouches for this ID.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What follows the trust domain: empty, or begins with `/` and does not end with one.
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.trust_domain.as_str().len()..]
    }

    /// `<namespace>`, of an ID in the form [`SpiffeId::workload`] gives.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace_and_name().map(|(namespace, _)| namespace)
    }

    /// `<name>`, of an ID in the form [`SpiffeId::workload`] gives.
    pub fn workload_name(&self) -> Option<&str> {
        self.namespace_and_name().map(|(_, name)| name)
    }

    /// The ID as it stands in a certificate.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn namespace_and_name(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let name = rest.strip_prefix("sa/")?;
        (!name.contains('/')).then_some((namespace, name))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

/// The name of an authority that issues SPIFFE IDs, such as `mesh.local`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare trust domain name, without the scheme.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        if name.is_empty() {
            return Err(SpiffeIdError::EmptyTrustDomain);
        }
        if let Some(found) = name.chars().find(|&c| !is_trust_domain_char(c)) {
            return Err(SpiffeIdError::TrustDomainCharacter { found });
        }
        if name.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(SpiffeIdError::TrustDomainTooLong { bytes: name.len() });
        }
        Ok(Self(name.into()))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

/// Why a text is not a SPIFFE ID or not a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// Longer than every implementation must support.
    #[error("a SPIFFE ID has at most {MAX_ID_BYTES} bytes, this one has {bytes}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// Another scheme, none, or one not in lower case.
    #[error("a SPIFFE ID begins with `{SCHEME}`, in lower case")]
    Scheme,
    /// Nothing between the scheme and the path.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// Longer than a DNS name can be.
    #[error("a trust domain has at most {MAX_TRUST_DOMAIN_BYTES} bytes, this one has {bytes}")]
    TrustDomainTooLong {
        /// Length of the trust domain.
        bytes: usize,
    },
    /// A port, user information, upper case, percent-encoding or another foreign character.
    #[error(
        "a trust domain consists of a-z, 0-9, `.`, `-` and `_`, without port or user; found {found:?}"
    )]
    TrustDomainCharacter {
        /// The first character that is not allowed.
        found: char,
    },
    /// The path has two slashes in a row, or a name is empty.
    #[error("a path segment is empty")]
    EmptySegment,
    /// The path ends with a slash.
    #[error("the path ends with `/`")]
    TrailingSlash,
    /// `.` or `..`, which a URI library would resolve to another ID.
    #[error("a path segment is `.` or `..`")]
    DotSegment,
    /// A `?`.
    #[error("a SPIFFE ID has no query")]
    Query,
    /// A `#`.
    #[error("a SPIFFE ID has no fragment")]
    Fragment,
    /// Percent-encoding or another foreign character.
    #[error("a path segment consists of a-z, A-Z, 0-9, `.`, `-` and `_`; found {found:?}")]
    SegmentCharacter {
        /// The first character that is not allowed.
        found: char,
    },
}

/// `path` begins with one of `/`, `?` and `#`.
fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    match path.find(['?', '#']).map(|at| path.as_bytes()[at]) {
        Some(b'?') => return Err(SpiffeIdError::Query),
        Some(_) => return Err(SpiffeIdError::Fragment),
        None if path.ends_with('/') => return Err(SpiffeIdError::TrailingSlash),
        None => {}
    }
    path.split('/').skip(1).try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    match segment {
        "" => Err(SpiffeIdError::EmptySegment),
        "." | ".." => Err(SpiffeIdError::DotSegment),
        _ => match segment.chars().find(|&c| !is_segment_char(c)) {
            Some(found) => Err(SpiffeIdError::SegmentCharacter { found }),
            None => Ok(()),
        },
    }
}

fn is_trust_domain_char(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')
}

fn is_segment_char(c: char) -> bool {
    matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_')
}

const SCHEME: &str = "spiffe://";

/// Section 2.3: implementations must support and must not generate more.
const MAX_ID_BYTES: usize = 2048;

/// Section 2.1: the limit of the host component of a URI.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, why: &SpiffeIdError) {
        assert_eq!(SpiffeId::parse(text).as_ref(), Err(why), "{text}");
    }

    #[test]
    fn a_workload_id_gives_its_parts() {
        let id = SpiffeId::parse("spiffe://mesh.local/ns/default/sa/web").unwrap();
        assert_eq!(id.trust_domain().as_str(), "mesh.local");
        assert_eq!(id.path(), "/ns/default/sa/web");
        assert_eq!(id.namespace(), Some("default"));
        assert_eq!(id.workload_name(), Some("web"));
    }

    #[test]
    fn what_is_parsed_is_displayed_unchanged() {
        for text in [
            "spiffe://mesh.local",
            "spiffe://a_b-c.9/Path/With.Dots/_-",
            "spiffe://mesh.local/ns/default/sa/web",
            "spiffe://td/...",
        ] {
            assert_eq!(SpiffeId::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_workload_id_equals_its_parsed_text() {
        let mesh = TrustDomain::parse("mesh.local").unwrap();
        assert_eq!(
            SpiffeId::workload(&mesh, "default", "web").unwrap(),
            "spiffe://mesh.local/ns/default/sa/web".parse().unwrap(),
        );
    }

    #[test]
    fn only_the_exact_workload_form_has_a_namespace_and_a_name() {
        for text in [
            "spiffe://td",
            "spiffe://td/web",
            "spiffe://td/ns/default",
            "spiffe://td/ns/default/sa",
            "spiffe://td/ns/default/svc/web",
            "spiffe://td/ns/default/sa/web/extra",
            "spiffe://td/x/ns/default/sa/web",
        ] {
            let id = SpiffeId::parse(text).unwrap();
            assert_eq!((id.namespace(), id.workload_name()), (None, None), "{text}");
        }
    }

    #[test]
    fn a_name_cannot_smuggle_in_segments() {
        let mesh = TrustDomain::parse("mesh.local").unwrap();
        let slash = SpiffeIdError::SegmentCharacter { found: '/' };
        assert_eq!(SpiffeId::workload(&mesh, "a/sa/b", "c"), Err(slash.clone()));
        assert_eq!(SpiffeId::workload(&mesh, "a", "b/c"), Err(slash));
        assert_eq!(
            SpiffeId::workload(&mesh, "..", "c"),
            Err(SpiffeIdError::DotSegment)
        );
        assert_eq!(
            SpiffeId::workload(&mesh, "a", ""),
            Err(SpiffeIdError::EmptySegment)
        );
    }

    #[test]
    fn another_scheme_is_refused() {
        for text in [
            "",
            "spiffe:",
            "spiffe:/td/a",
            "https://td/a",
            "SPIFFE://td/a",
            " spiffe://td",
        ] {
            refused(text, &SpiffeIdError::Scheme);
        }
    }

    #[test]
    fn an_empty_trust_domain_is_refused() {
        for text in ["spiffe://", "spiffe:///a", "spiffe://?q", "spiffe://#f"] {
            refused(text, &SpiffeIdError::EmptyTrustDomain);
        }
    }

    #[test]
    fn a_trust_domain_with_port_user_or_foreign_characters_is_refused() {
        for (text, found) in [
            ("spiffe://Mesh/a", 'M'),
            ("spiffe://td:80/a", ':'),
            ("spiffe://user@td/a", '@'),
            ("spiffe://t%64/a", '%'),
            ("spiffe://münster/a", 'ü'),
            ("spiffe://td\n/a", '\n'),
            ("spiffe://[::1]/a", '['),
            ("spiffe://*.td/a", '*'),
        ] {
            refused(text, &SpiffeIdError::TrustDomainCharacter { found });
        }
    }

    #[test]
    fn query_and_fragment_are_refused_wherever_they_stand() {
        for text in ["spiffe://td?q", "spiffe://td/a?q", "spiffe://td/a?q#f"] {
            refused(text, &SpiffeIdError::Query);
        }
        for text in ["spiffe://td#f", "spiffe://td/a#f", "spiffe://td/a#f?q"] {
            refused(text, &SpiffeIdError::Fragment);
        }
    }

    #[test]
    fn empty_and_dot_segments_are_refused() {
        refused("spiffe://td/", &SpiffeIdError::TrailingSlash);
        refused("spiffe://td/a/", &SpiffeIdError::TrailingSlash);
        refused("spiffe://td//a", &SpiffeIdError::EmptySegment);
        refused("spiffe://td/a//b", &SpiffeIdError::EmptySegment);
        refused("spiffe://td/./a", &SpiffeIdError::DotSegment);
        refused("spiffe://td/a/..", &SpiffeIdError::DotSegment);
    }

    #[test]
    fn foreign_characters_in_a_segment_are_refused() {
        for (text, found) in [
            ("spiffe://td/a%2fb", '%'),
            ("spiffe://td/a b", ' '),
            ("spiffe://td/a\0", '\0'),
            ("spiffe://td/é", 'é'),
            ("spiffe://td/a:b", ':'),
            ("spiffe://td/*", '*'),
        ] {
            refused(text, &SpiffeIdError::SegmentCharacter { found });
        }
    }

    #[test]
    fn the_longest_id_and_trust_domain_are_accepted_and_one_more_byte_is_not() {
        let longest = format!("spiffe://td/{}", "a".repeat(2048 - "spiffe://td/".len()));
        assert!(SpiffeId::parse(&longest).is_ok());
        refused(
            &format!("{longest}a"),
            &SpiffeIdError::TooLong { bytes: 2049 },
        );
        assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
        assert_eq!(
            TrustDomain::parse(&"a".repeat(256)),
            Err(SpiffeIdError::TrustDomainTooLong { bytes: 256 })
        );
    }
}
