//! Which peers a rule allows, and which the mesh.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use attestation::identity::{SpiffeId, SpiffeIdError};

/// The peers that a rule allows: those of an entry that allows, but for those of one that denies. An
/// empty set allows nobody. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSet(Arc<[PeerEntry]>);

impl PeerSet {
    /// Every member of the mesh.
    pub fn any() -> Self {
        Self::from_iter([PeerEntry::Allow(PeerMatch::Any)])
    }

    /// Whether a peer with this identity is allowed.
    pub fn allows(&self, peer: &SpiffeId) -> bool {
        let mut is_allowed = false;
        for entry in &*self.0 {
            match entry {
                PeerEntry::Deny(who) if who.meets(peer) => return false,
                PeerEntry::Allow(who) => is_allowed |= who.meets(peer),
                PeerEntry::Deny(_) => {}
            }
        }
        is_allowed
    }
}

impl FromIterator<PeerEntry> for PeerSet {
    fn from_iter<I: IntoIterator<Item = PeerEntry>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl fmt::Display for PeerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nobody");
        }
        for (index, entry) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{entry}")?;
        }
        Ok(())
    }
}

impl serde::Serialize for PeerSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

/// One entry of a list of peers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerEntry {
    /// They are allowed, unless another entry denies it.
    Allow(PeerMatch),
    /// `!` before them: they are not, whatever else the list says.
    Deny(PeerMatch),
}

impl PeerEntry {
    /// The entry that says the opposite.
    #[must_use]
    pub fn opposite(&self) -> Self {
        match self.clone() {
            Self::Allow(who) => Self::Deny(who),
            Self::Deny(who) => Self::Allow(who),
        }
    }
}

impl FromStr for PeerEntry {
    type Err = PeerMatchError;

    fn from_str(text: &str) -> Result<Self, PeerMatchError> {
        match text.strip_prefix('!') {
            Some(who) => who.parse().map(Self::Deny),
            None => text.parse().map(Self::Allow),
        }
    }
}

impl fmt::Display for PeerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow(who) => who.fmt(f),
            Self::Deny(who) => write!(f, "!{who}"),
        }
    }
}

/// Whom an entry of a list of peers means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerMatch {
    /// `any`: whoever holds a certificate of the mesh.
    Any,
    /// Exactly this identity.
    SpiffeId(SpiffeId),
    /// Any identity that ends in this workload's name, in whichever namespace. Where two
    /// namespaces do not trust each other, list SPIFFE IDs instead.
    WorkloadName(WorkloadName),
    /// `ns/` and a name: any identity in this namespace.
    Namespace(WorkloadName),
}

impl PeerMatch {
    pub(super) fn meets(&self, peer: &SpiffeId) -> bool {
        match self {
            Self::Any => true,
            Self::SpiffeId(id) => id == peer,
            Self::WorkloadName(name) => peer.workload_name() == Some(name.as_str()),
            Self::Namespace(name) => peer.namespace() == Some(name.as_str()),
        }
    }
}

impl FromStr for PeerMatch {
    type Err = PeerMatchError;

    fn from_str(text: &str) -> Result<Self, PeerMatchError> {
        if text == ANY {
            return Ok(Self::Any);
        }
        if text.contains(':') {
            let id: SpiffeId = text.parse()?;
            if id.path().is_empty() {
                return Err(PeerMatchError::TrustDomain);
            }
            return Ok(Self::SpiffeId(id));
        }
        match text.strip_prefix(NAMESPACE) {
            Some(name) => Ok(Self::Namespace(name.parse()?)),
            None => Ok(Self::WorkloadName(text.parse()?)),
        }
    }
}

impl fmt::Display for PeerMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str(ANY),
            Self::SpiffeId(id) => id.fmt(f),
            Self::WorkloadName(name) => name.fmt(f),
            Self::Namespace(name) => write!(f, "{NAMESPACE}{name}"),
        }
    }
}

/// Why a text is not a [`PeerMatch`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerMatchError {
    /// It has a colon, as only a SPIFFE ID has, but is none.
    #[error("is not a SPIFFE ID ({0}); write spiffe://<trust domain>/ns/<namespace>/sa/<workload>")]
    SpiffeId(#[from] SpiffeIdError),
    /// It has no path, so no workload can have it.
    #[error("names a trust domain, not a workload; write any to allow the whole mesh")]
    TrustDomain,
    /// It is not a workload's name either.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// What the mesh says of a workload and those it may meet, on top of the workload's own rules.
/// Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Every identity of the mesh. `None` where nobody lists them, as with certificates from files:
    /// whoever holds a certificate is a member then.
    pub members: Option<Arc<BTreeSet<SpiffeId>>>,
    /// Those of them that the workload may meet, whoever opens the connection.
    pub allowed_peers: PeerSet,
}

impl Membership {
    /// Leaves everything to the workload's own rules.
    pub fn unrestricted() -> Self {
        Self {
            members: None,
            allowed_peers: PeerSet::any(),
        }
    }

    /// Whether the mesh has this identity.
    pub fn lists(&self, identity: &SpiffeId) -> bool {
        self.members
            .as_ref()
            .is_none_or(|members| members.contains(identity))
    }

    /// What speaks against a connection between the workload, which goes by `own`, and `peer`;
    /// `None` stands for a peer that has not proved who it is, about which nothing can be said.
    pub fn objection(&self, own: &SpiffeId, peer: Option<&SpiffeId>) -> Option<Objection> {
        if !self.lists(own) {
            return Some(Objection::OwnIdentity);
        }
        let peer = peer?;
        if !self.lists(peer) {
            return Some(Objection::PeerIdentity);
        }
        (!self.allowed_peers.allows(peer)).then_some(Objection::PeerNotAllowed)
    }
}

/// Why the mesh does not want a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// The workload's own identity is none of the mesh's any more.
    OwnIdentity,
    /// The peer's is not.
    PeerIdentity,
    /// Both are, but the workload may not meet the peer.
    PeerNotAllowed,
}

/// A workload's short name: 1 to 63 of `a-z`, `0-9` and `-`, not at either end a dash; not `any`.
/// Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadName(Arc<str>);

impl WorkloadName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as shared text, for those who keep one a connection.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl FromStr for WorkloadName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text == ANY {
            return Err(NameError::Reserved);
        }
        if text.is_empty() || text.len() > LONGEST_NAME {
            return Err(NameError::Length);
        }
        if !text.bytes().all(allowed) || text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Characters);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for WorkloadName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Why a text is not a [`WorkloadName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// `any` means every peer.
    #[error("is reserved, as it means every peer of the mesh; choose another name")]
    Reserved,
    /// Empty, or longer than a DNS label.
    #[error("is not a name; use 1 to {LONGEST_NAME} characters")]
    Length,
    /// Something other than `a-z`, `0-9` and inner dashes.
    #[error("is not a name; use a-z, 0-9 and dashes, with no dash at either end")]
    Characters,
}

const ANY: &str = "any";

/// As in the path of a SPIFFE ID.
const NAMESPACE: &str = "ns/";

/// Bytes of the longest [`WorkloadName`]: a DNS label (RFC 1035, section 2.3.4), as the name is also
/// one in the certificate.
pub const LONGEST_NAME: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(entries: &[&str]) -> PeerSet {
        entries.iter().map(|entry| entry.parse().unwrap()).collect()
    }

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    #[test]
    fn a_set_allows_whom_it_lists_and_nobody_else() {
        let client = id("spiffe://mesh.local/ns/default/sa/client");
        let other_namespace = id("spiffe://mesh.local/ns/other/sa/client");
        let other_domain = id("spiffe://evil.local/ns/default/sa/client");
        let db = id("spiffe://mesh.local/ns/default/sa/db");
        for (set, peer, allowed) in [
            (peers(&["any"]), &db, true),
            (peers(&[]), &db, false),
            (peers(&["client"]), &client, true),
            (peers(&["client"]), &other_namespace, true),
            (peers(&["client"]), &db, false),
            (peers(&["clien"]), &client, false),
            (peers(&["any", "!client"]), &client, false),
            (peers(&["!client", "any"]), &client, false),
            (peers(&["any", "!client"]), &db, true),
            (peers(&["!client"]), &db, false),
            (peers(&["ns/default"]), &db, true),
            (peers(&["ns/default"]), &other_namespace, false),
            (peers(&["any", "!ns/other"]), &other_namespace, false),
            (peers(&["any", "!ns/other"]), &client, true),
            (peers(&["client", "!ns/other"]), &other_namespace, false),
            (
                peers(&["spiffe://mesh.local/ns/default/sa/client"]),
                &client,
                true,
            ),
            (
                peers(&["spiffe://mesh.local/ns/default/sa/client"]),
                &other_namespace,
                false,
            ),
            (
                peers(&["spiffe://mesh.local/ns/default/sa/client"]),
                &other_domain,
                false,
            ),
            (
                peers(&["spiffe://mesh.local/ns/default/sa/client", "db"]),
                &db,
                true,
            ),
        ] {
            assert_eq!(set.allows(peer), allowed, "{set} and {peer}");
        }
    }

    #[test]
    fn a_membership_wants_both_sides_listed_and_the_peer_allowed() {
        let [web, db, gone] = ["web", "db", "gone"]
            .map(|name| id(&format!("spiffe://mesh.local/ns/default/sa/{name}")));
        let members = BTreeSet::from([web.clone(), db.clone()]);
        let membership = |allowed| Membership {
            members: Some(Arc::new(members.clone())),
            allowed_peers: allowed,
        };
        let any = membership(PeerSet::any());
        assert_eq!(any.objection(&web, Some(&db)), None);
        assert_eq!(any.objection(&web, None), None);
        assert_eq!(
            any.objection(&gone, Some(&db)),
            Some(Objection::OwnIdentity)
        );
        assert_eq!(any.objection(&gone, None), Some(Objection::OwnIdentity));
        assert_eq!(
            any.objection(&web, Some(&gone)),
            Some(Objection::PeerIdentity)
        );
        let nobody = membership(peers(&[]));
        assert_eq!(
            nobody.objection(&web, Some(&db)),
            Some(Objection::PeerNotAllowed)
        );
        // Whom the list of peers names need not be a member.
        let withdrawn = membership(peers(&["gone"]));
        assert_eq!(
            withdrawn.objection(&web, Some(&gone)),
            Some(Objection::PeerIdentity)
        );
        assert_eq!(
            Membership::unrestricted().objection(&gone, Some(&gone)),
            None
        );
    }

    #[test]
    fn a_set_prints_its_entries() {
        assert_eq!(PeerSet::any().to_string(), "any");
        assert_eq!(peers(&[]).to_string(), "nobody");
        assert_eq!(peers(&["client", "db"]).to_string(), "client, db");
        let mixed = ["ns/default", "!db", "!ns/other"];
        assert_eq!(peers(&mixed).to_string(), "ns/default, !db, !ns/other");
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        for (text, reason) in [
            ("any", NameError::Reserved),
            ("", NameError::Length),
            (&"a".repeat(64), NameError::Length),
            ("Web", NameError::Characters),
            ("web_1", NameError::Characters),
            ("-web", NameError::Characters),
            ("web-", NameError::Characters),
            ("wéb", NameError::Characters),
        ] {
            assert_eq!(text.parse::<WorkloadName>(), Err(reason), "{text}");
        }
        assert!("a".repeat(63).parse::<WorkloadName>().is_ok());
    }
}
