//! The names that a policy gives a workload.

use std::fmt;
use std::net::IpAddr;

use attestation::identity::{DnsName, SpiffeId, SpiffeIdError, TrustDomain};

use crate::error::Collector;
use crate::path::{Path, quoted};
use crate::read::{Cursor, Json, Object};

/// The subject alternative names, sorted by kind.
pub(super) struct Names<'a> {
    pub(super) dns: Vec<DnsName>,
    pub(super) ip: Vec<IpAddr>,
    uri: Vec<(SpiffeId, Cursor<'a>)>,
    /// Whether each of them could be read.
    pub(super) complete: bool,
}

pub(super) fn names<'a>(
    object: &Object<'a>,
    trust_domain: Option<&TrustDomain>,
    errors: &Collector,
) -> Names<'a> {
    let before = errors.count();
    let mut names = Names {
        dns: Vec::new(),
        ip: Vec::new(),
        uri: Vec::new(),
        complete: true,
    };
    let cursors = object.optional("SANs").and_then(|sans| {
        // What is listed twice is reported here; what each one is, below.
        sans.distinct(|san| normalized(san.json()))?;
        sans.list()
    });
    for cursor in cursors.unwrap_or_default() {
        let Some(text) = cursor.string() else {
            continue;
        };
        if let Ok(address) = text.parse() {
            names.ip.push(address);
        } else if text.contains("://") {
            if let Some(id) = spiffe_id(&cursor, trust_domain) {
                names.uri.push((id, cursor));
            }
        } else {
            match DnsName::parse(text) {
                Ok(name) => names.dns.push(name),
                Err(error) => reject(&cursor, "a host name, an IP address or a SPIFFE ID", error),
            }
        }
    }
    names.complete = errors.count() == before;
    names
}

impl Names<'_> {
    /// The SPIFFE ID that `SpiffeID` or one of the names gives, or that follows from the first host
    /// name. `None` where it can't be told, which is reported.
    pub(super) fn identity(
        &self,
        object: &Object<'_>,
        path: &Path,
        trust_domain: Option<&TrustDomain>,
        errors: &Collector,
    ) -> Option<SpiffeId> {
        let written = object.optional("SpiffeID");
        let explicit = written
            .as_ref()
            .map(|cursor| spiffe_id(cursor, trust_domain));
        let mut identity = explicit.clone().flatten();
        for (id, cursor) in &self.uri {
            match &identity {
                None => identity = Some(id.clone()),
                Some(identity) if identity == id => {}
                Some(identity) => cursor.reject(format_args!(
                    "one SPIFFE ID for each policy; this one has {identity} already"
                )),
            }
        }
        if identity.is_some() || explicit.is_some() || !self.complete {
            return identity;
        }
        let trust_domain = trust_domain?;
        let Some(first) = self.dns.first() else {
            let want = "a SpiffeID, or a host name among the SANs to make one of";
            errors.mismatch(path, "neither SpiffeID nor host name", want);
            return None;
        };
        let name = first.as_str().split('.').next().unwrap_or_default();
        match SpiffeId::workload(trust_domain, "default", name) {
            Ok(id) => Some(id),
            Err(error) => {
                let got = format_args!("the host name {first}");
                errors.mismatch(path, got, format_args!("a SpiffeID: {error}"));
                None
            }
        }
    }
}

/// A SPIFFE ID that names a workload of `trust_domain`.
fn spiffe_id(cursor: &Cursor<'_>, trust_domain: Option<&TrustDomain>) -> Option<SpiffeId> {
    let id = match SpiffeId::parse(cursor.string()?) {
        Ok(id) => id,
        Err(error) => {
            let want = match error {
                SpiffeIdError::Scheme => "a SPIFFE ID",
                _ => "a valid SPIFFE ID",
            };
            reject(cursor, want, error);
            return None;
        }
    };
    if let Some(trust_domain) = trust_domain
        && id.trust_domain() != trust_domain
    {
        cursor.reject(format_args!("a SPIFFE ID of trust domain {trust_domain}"));
        return None;
    }
    if id.path().is_empty() {
        cursor.reject("a path after the trust domain: no workload is the whole of it");
        return None;
    }
    Some(id)
}

/// Equal for two spellings of one name.
fn normalized(json: &Json) -> Option<String> {
    let Json::String(text) = json else {
        return None;
    };
    Some(match (text.parse::<IpAddr>(), DnsName::parse(text)) {
        (Ok(address), _) => address.to_string(),
        (_, Ok(name)) => name.to_string(),
        _ => quoted(text),
    })
}

fn reject(cursor: &Cursor<'_>, want: &str, reason: impl fmt::Display) {
    cursor.reject(format_args!("{want}: {reason}"));
}
