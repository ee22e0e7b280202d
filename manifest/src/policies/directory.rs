use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use attestation::identity::SpiffeId;

use crate::error::Collector;
use crate::policies::Role;
use crate::policies::draft::Draft;
use crate::read::{Cursor, DidYouMean};

/// Every identity of the manifest, by whatever it may be called.
pub(super) struct Directory<'a> {
    /// Each identity with the roles of its policies; an unreadable role is left out.
    identities: BTreeMap<&'a SpiffeId, BTreeSet<&'static str>>,
    /// Last path segments, host names, and their first labels.
    names: BTreeMap<&'a str, BTreeSet<&'a SpiffeId>>,
    /// Whether each policy's identity, names and role are known. If not, an unknown name may be
    /// theirs.
    complete: bool,
}

impl<'a> Directory<'a> {
    /// Of every draft; `None` stands for one that is unreadable altogether.
    pub(super) fn new<'j: 'a>(drafts: impl Iterator<Item = Option<&'a Draft<'j>>>) -> Self {
        let mut directory = Self {
            identities: BTreeMap::new(),
            names: BTreeMap::new(),
            complete: true,
        };
        for draft in drafts {
            let role = draft.and_then(|draft| draft.role);
            let id = draft.and_then(|draft| draft.identity.as_ref());
            directory.complete &= role.is_some() && draft.is_some_and(|draft| draft.names_complete);
            let (Some(draft), Some(id)) = (draft, id) else {
                directory.complete = false;
                continue;
            };
            let roles = directory.identities.entry(id).or_default();
            roles.extend(role.map(Role::as_str));
            let last = id.path().rsplit('/').next();
            let hosts = draft.dns.iter().flat_map(|name| {
                let name = name.as_str();
                [Some(name), name.split('.').next()]
            });
            for name in hosts.chain([last]).flatten() {
                directory.names.entry(name).or_default().insert(id);
            }
        }
        directory
    }

    /// The identities that `references` mean, all of them or none. With `role`, each must have that
    /// one.
    pub(super) fn resolve_all(
        &self,
        references: &[Cursor<'_>],
        role: Option<Role>,
        errors: &Collector,
    ) -> Option<Vec<SpiffeId>> {
        let mut first = BTreeMap::new();
        let mut resolved = Vec::with_capacity(references.len());
        for reference in references {
            let id = self.resolve(reference, role);
            if let Some(id) = id
                && let Some(earlier) = first.insert(id, reference.path())
            {
                let got = format_args!("{id} again, after {earlier}");
                errors.mismatch(reference.path(), got, "each one once");
            }
            resolved.push(id.cloned());
        }
        resolved.into_iter().collect()
    }

    fn resolve(&self, reference: &Cursor<'_>, role: Option<Role>) -> Option<&'a SpiffeId> {
        let text = reference.string()?;
        let id = if text.contains("://") {
            match SpiffeId::parse(text) {
                Ok(id) => self.identities.get_key_value(&id).map(|(id, _)| *id),
                Err(error) => {
                    reference.reject(format_args!("a valid SPIFFE ID: {error}"));
                    return None;
                }
            }
        } else {
            match self.names.get(text) {
                Some(ids) if ids.len() > 1 => {
                    let ids = Few(ids);
                    reference.reject(format_args!("one SPIFFE ID; that name fits {ids}"));
                    return None;
                }
                Some(ids) => ids.first().copied(),
                None => None,
            }
        };
        match (id, role) {
            (None, _) => {
                if self.complete {
                    self.reject_unknown(reference, text);
                }
                None
            }
            (Some(id), Some(role)) if !self.has(id, role) => {
                reference.reject(format_args!("a {role}; no policy of {id} has that role"));
                None
            }
            (Some(id), _) => Some(id),
        }
    }

    fn has(&self, id: &SpiffeId, role: Role) -> bool {
        !self.complete
            || self
                .identities
                .get(id)
                .is_some_and(|roles| roles.contains(role.as_str()))
    }

    fn reject_unknown(&self, reference: &Cursor<'_>, text: &str) {
        let ids = self.identities.keys().map(|id| id.as_str());
        let known = self.names.keys().copied().chain(ids);
        let suggestion = DidYouMean { text, known };
        reference.reject(format_args!(
            "the SPIFFE ID or name of a policy in this manifest{suggestion}"
        ));
    }
}

/// Some of them, so that a message stays readable.
struct Few<'a, 'i>(&'a BTreeSet<&'i SpiffeId>);

impl fmt::Display for Few<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, id) in self.0.iter().take(MAX_NAMED).enumerate() {
            let before = if i == 0 { "" } else { " and " };
            write!(f, "{before}{id}")?;
        }
        match self.0.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

const MAX_NAMED: usize = 3;
