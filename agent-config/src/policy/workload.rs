//! The workload that an egress rule is for.

use std::fmt;
use std::str::FromStr;

use attestation::identity::SpiffeId;

use super::{PeerEntry, PeerMatch, PeerMatchError, PeerSet};

/// Whom a rule by workload is for: all that an entry of a list of peers can mean, but for everybody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadMatch(PeerMatch);

impl WorkloadMatch {
    /// Whether a peer that has proved this identity is meant.
    pub fn meets(&self, peer: &SpiffeId) -> bool {
        self.0.meets(peer)
    }

    /// Those who are meant, and nobody else.
    pub fn peers(&self) -> PeerSet {
        PeerSet::from_iter([PeerEntry::Allow(self.0.clone())])
    }

    /// Whether some identity may be meant by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (PeerMatch::SpiffeId(id), who) | (who, PeerMatch::SpiffeId(id)) => who.meets(id),
            (PeerMatch::WorkloadName(_), PeerMatch::Namespace(_))
            | (PeerMatch::Namespace(_), PeerMatch::WorkloadName(_)) => true,
            (one, other) => one == other,
        }
    }

    /// Whether `other` means everybody that is meant here, and more.
    pub fn is_narrower_than(&self, other: &Self) -> bool {
        self.specificity() > other.specificity() && self.overlaps(other)
    }

    /// Greater where fewer are meant, of those that mean one peer.
    pub(super) fn specificity(&self) -> u8 {
        match self.0 {
            PeerMatch::Any => 0,
            PeerMatch::WorkloadName(_) | PeerMatch::Namespace(_) => 1,
            PeerMatch::SpiffeId(_) => 2,
        }
    }
}

impl FromStr for WorkloadMatch {
    type Err = WorkloadMatchError;

    fn from_str(text: &str) -> Result<Self, WorkloadMatchError> {
        if text.starts_with('!') {
            return Err(WorkloadMatchError::Not);
        }
        match text.parse() {
            Ok(PeerMatch::Any) => Err(WorkloadMatchError::Any),
            Ok(who) => Ok(Self(who)),
            Err(PeerMatchError::TrustDomain) => Err(WorkloadMatchError::TrustDomain),
            Err(error) => Err(WorkloadMatchError::Peer(error)),
        }
    }
}

/// As it is written in rules.
impl fmt::Display for WorkloadMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl serde::Serialize for WorkloadMatch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a [`WorkloadMatch`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadMatchError {
    /// `any`: that is what a rule without a workload is for.
    #[error("is every member of the mesh; leave workload out for a rule about all of them")]
    Any,
    /// A denial, as a list of peers has them.
    #[error("says whom the rule is not for; name the workload, and write mode = \"deny\"")]
    Not,
    /// A SPIFFE ID without a path, which no workload can have.
    #[error("names a trust domain; write spiffe://<trust domain>/ns/<namespace>/sa/<workload>")]
    TrustDomain,
    /// It is no entry of a list of peers.
    #[error(transparent)]
    Peer(PeerMatchError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::NameError;

    fn workload(text: &str) -> WorkloadMatch {
        text.parse().unwrap()
    }

    #[test]
    fn what_may_be_one_workload_overlaps_and_an_identity_is_narrower_than_a_name() {
        const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";
        const TOOL: &str = "spiffe://mesh.local/tool";
        for (one, other, overlaps, narrower) in [
            ("cart", "cart", true, false),
            ("cart", "db", false, false),
            ("ns/shop", "ns/shop", true, false),
            ("ns/shop", "ns/test", false, false),
            // A workload of that name may be in that namespace, and each may be elsewhere.
            ("cart", "ns/shop", true, false),
            ("ns/cart", "cart", true, false),
            (CART, "cart", true, true),
            (CART, "ns/shop", true, true),
            (CART, "db", false, false),
            (CART, "ns/test", false, false),
            (CART, CART, true, false),
            (CART, TOOL, false, false),
            (TOOL, "tool", false, false),
        ] {
            let (one, other) = (workload(one), workload(other));
            assert_eq!(one.overlaps(&other), overlaps, "{one} {other}");
            assert_eq!(other.overlaps(&one), overlaps, "{other} {one}");
            assert_eq!(one.is_narrower_than(&other), narrower, "{one} {other}");
            assert!(!other.is_narrower_than(&one), "{other} {one}");
        }
    }

    #[test]
    fn everybody_and_denials_are_no_workload() {
        for (text, reason) in [
            ("any", WorkloadMatchError::Any),
            ("!cart", WorkloadMatchError::Not),
            (
                "Cart",
                WorkloadMatchError::Peer(PeerMatchError::Name(NameError::Characters)),
            ),
            ("spiffe://mesh.local", WorkloadMatchError::TrustDomain),
        ] {
            assert_eq!(text.parse::<WorkloadMatch>(), Err(reason), "{text}");
        }
    }
}
