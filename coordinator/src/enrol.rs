//! Enrolment: from an appraised peer to certificates. Names come from the manifest alone.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use attestation::identity::SpiffeId;
use attestation::{AttestationResult, Claims, Digest, ReferenceValues, Tee};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use zeroize::Zeroizing;

use attested_tls::Peer;
use attested_tls::wire::MAX_CERTIFIED_KEYS;
use manifest::{Manifest, Policy, Role};

use crate::audit::Event;
use crate::change::internal;
use crate::core::{Coordinator, Deployment, now};
use crate::deployment::Generation;
use crate::pki::{CertificateClaims, Validity, WorkloadNames};
use crate::refusal::{RefusalCode, Refused};
use crate::roster::{Enrolled, InstanceId, Place};

/// A key that the caller wants certified.
#[derive(Debug)]
pub struct KeyRequest {
    /// `SubjectPublicKeyInfo`, ECDSA on P-256.
    pub public_key: Vec<u8>,
    /// A workload that the caller hosts; `None` for the caller's own identity.
    pub spiffe_id: Option<SpiffeId>,
}

/// A certificate that was issued.
pub struct Issued {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// Leaf, then intermediate, PEM.
    pub chain: String,
    /// The generation that signed it.
    pub generation: Generation,
    /// Where the policy names a secret.
    pub workload_secret: Option<Zeroizing<[u8; 64]>>,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("spiffe_id", &self.spiffe_id)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// The policy that a peer's evidence names.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'d> {
    /// The policy's hash.
    pub hash: Digest,
    /// What the manifest says of it.
    pub policy: &'d Policy,
    /// What proves it.
    pub result: &'d AttestationResult,
}

impl<'d> Caller<'d> {
    /// Finds the one policy that the peer runs under. The manifest in force is asked each time: it
    /// may have changed since the connection began.
    pub fn find(manifest: &'d Manifest, peer: &'d Peer) -> Result<Self, Refused> {
        let not_allowed = |reason: &str| Refused::new(RefusalCode::NotAllowed, reason);
        let result = peer
            .result
            .as_ref()
            .ok_or_else(|| not_allowed("the caller sent no evidence"))?;
        let hash = result.claims().host_data;
        let policy = manifest.policy(&hash).ok_or_else(|| {
            Refused::new(
                RefusalCode::NotAllowed,
                format_args!("policy {hash} is not in the manifest"),
            )
        })?;
        if !is_listed(result.claims(), manifest.reference_values()) {
            return Err(not_allowed(
                "the measurement of the caller's evidence is not among the ReferenceValues any more",
            ));
        }
        Ok(Self {
            hash,
            policy,
            result,
        })
    }

    /// Every workload that the caller may act for: itself, or those that a node hosts.
    pub fn may_act_for(&self, manifest: &'d Manifest) -> Vec<&'d Policy> {
        let hosted = self.hosted(manifest).map(|(_, policy)| policy);
        std::iter::once(self.policy).chain(hosted).collect()
    }

    fn hosted(&self, manifest: &'d Manifest) -> impl Iterator<Item = (Digest, &'d Policy)> {
        let node = Some(self.policy).filter(|it| it.role == Role::Node);
        let hosts = move |it: &Policy| node.is_some_and(|node| node.hosts.contains(&it.spiffe_id));
        manifest
            .policies()
            .iter()
            .filter(move |(_, it)| it.role == Role::Workload && hosts(it))
            .map(|(hash, policy)| (*hash, policy))
    }
}

impl Coordinator {
    /// Certifies each key, or none.
    pub fn enrol(
        &self,
        deployment: &Deployment,
        peer: &Peer,
        instance: InstanceId,
        requests: &[KeyRequest],
    ) -> Result<Vec<Issued>, Refused> {
        let manifest = deployment.ledger.manifest();
        let caller = Caller::find(manifest, peer)?;
        if caller.policy.role == Role::Coordinator {
            return Err(Refused::new(
                RefusalCode::NotAllowed,
                "a Coordinator has no mesh certificate",
            ));
        }
        if requests.is_empty() {
            return Err(Refused::told(RefusalCode::Malformed, "no key to certify"));
        }
        if requests.len() > MAX_CERTIFIED_KEYS {
            return Err(Refused::told(
                RefusalCode::Malformed,
                format_args!("{} keys, at most {MAX_CERTIFIED_KEYS}", requests.len()),
            ));
        }
        let requests = requests
            .iter()
            .map(|request| {
                let policy = requested(&caller, manifest, peer, request)?;
                Ok((request.public_key.as_slice(), policy))
            })
            .collect::<Result<Vec<_>, Refused>>()?;
        let now = now();
        let generation = deployment.ledger.view().signing();
        let mesh_ca = deployment.keyring.mesh_ca(generation).ok_or_else(|| {
            Refused::new(
                RefusalCode::InRecovery,
                format_args!("the key of mesh CA {generation} is not here yet"),
            )
        })?;
        let ca = mesh_ca.certificate().validity();
        let validity = validity(ca, manifest.certificate_lifetime(), now)?;
        let claims = CertificateClaims {
            evidence: caller.result.claims(),
            manifest: manifest.hash(),
            transition_seq: deployment.ledger.chain().head().seq,
        };
        // Entered before anything is signed, so that two callers can't share the last place. One
        // that can't use it keeps it: its evidence is good, its key is not.
        let lifetime = (validity.not_after() - now).unsigned_abs();
        self.take_places(&caller, peer, instance, &requests, lifetime, generation)?;
        let issued = requests
            .into_iter()
            .map(|(public_key, (_, policy))| {
                let key = SubjectPublicKeyInfoDer::from(public_key);
                let certificate = mesh_ca
                    .issue_attested(&names(policy), validity, &key, &claims)
                    .map_err(|error| Refused::new(RefusalCode::Malformed, error))?;
                let workload_secret = policy
                    .workload_secret_id
                    .as_deref()
                    .map(|id| deployment.keyring.seed().workload_secret(id));
                Ok(Issued {
                    spiffe_id: policy.spiffe_id.clone(),
                    chain: certificate.chain_pem(),
                    generation,
                    workload_secret,
                })
            })
            .collect::<Result<Vec<_>, Refused>>()?;
        let not_after = validity.not_after();
        for one in &issued {
            self.metrics.enrolled();
            self.audit.write(&Event::Enrolled {
                spiffe_id: one.spiffe_id.to_string(),
                policy: caller.hash.to_string(),
                generation,
                instance: hex::encode(instance.0),
                tee: caller.result.claims().tee.as_str(),
                not_after: not_after.format(&Rfc3339).unwrap_or_default(),
                remote: peer.remote.map(|it| it.to_string()),
            });
        }
        Ok(issued)
    }

    fn take_places(
        &self,
        caller: &Caller<'_>,
        peer: &Peer,
        instance: InstanceId,
        requests: &[(&[u8], (Digest, &Policy))],
        lifetime: Duration,
        generation: Generation,
    ) -> Result<(), Refused> {
        let own = (caller.hash, caller.policy);
        let places: BTreeSet<_> = requests
            .iter()
            .map(|(_, requested)| *requested)
            .chain([own])
            .map(|(policy, it)| Place {
                policy,
                cap: it.max_instances,
            })
            .collect();
        let now = Instant::now();
        let enrolled = Enrolled {
            policy: caller.hash,
            spiffe_id: caller.policy.spiffe_id.clone(),
            remote: peer.remote,
            until: now + lifetime,
            generation,
        };
        let mut roster = self.roster();
        roster
            .enrol(instance, enrolled, &places, now)
            .map_err(|error| Refused::new(RefusalCode::TooManyInstances, error))?;
        self.metrics.instances(roster.len(now));
        Ok(())
    }
}

/// The policy that a request is for, if the caller may ask for it with this key.
fn requested<'d>(
    caller: &Caller<'d>,
    manifest: &'d Manifest,
    peer: &Peer,
    request: &KeyRequest,
) -> Result<(Digest, &'d Policy), Refused> {
    let not_allowed = |reason: fmt::Arguments<'_>| Refused::new(RefusalCode::NotAllowed, reason);
    let digest = Digest::of(&request.public_key);
    if !peer.certified_keys.contains(&digest) {
        return Err(not_allowed(format_args!(
            "the evidence does not vouch for key {digest}"
        )));
    }
    let Some(spiffe_id) = &request.spiffe_id else {
        return Ok((caller.hash, caller.policy));
    };
    if *spiffe_id == caller.policy.spiffe_id {
        return Ok((caller.hash, caller.policy));
    }
    let mut hosted = caller
        .hosted(manifest)
        .filter(|(_, policy)| policy.spiffe_id == *spiffe_id);
    let first = hosted.next().ok_or_else(|| {
        let hash = caller.hash;
        not_allowed(format_args!(
            "policy {hash} may not ask for {spiffe_id}; list it under Hosts"
        ))
    })?;
    // Policies of one identity agree on all else that is certified (`manifest`), not on the secret.
    match hosted.find(|(_, it)| it.workload_secret_id != first.1.workload_secret_id) {
        None => Ok(first),
        Some((other, _)) => Err(not_allowed(format_args!(
            "{spiffe_id} has two policies with different WorkloadSecretIDs, {} and {other}; \
             a node can't tell which of them it hosts",
            first.0
        ))),
    }
}

/// Whether the measurement that was appraised is still trusted: the manifest may have changed since
/// the connection began. All else is appraised anew when the connection is old.
fn is_listed(claims: &Claims, reference: &ReferenceValues) -> bool {
    let Claims {
        tee, measurement, ..
    } = claims;
    match tee {
        Tee::SevSnp => reference
            .snp
            .iter()
            .any(|it| it.measurement == *measurement),
        Tee::Tdx => reference.tdx.iter().any(|it| it.mr_td == *measurement),
        Tee::Simulated => reference
            .simulated
            .iter()
            .any(|it| it.measurement == *measurement),
    }
}

fn names(policy: &Policy) -> WorkloadNames {
    WorkloadNames {
        spiffe_id: policy.spiffe_id.clone(),
        dns: policy.dns.clone(),
        ip: policy.ip.clone(),
    }
}

/// Refuses where the CA is not valid by this machine's clock; else no certificate is valid for longer
/// than its CA.
fn validity(ca: Validity, lifetime: Duration, now: OffsetDateTime) -> Result<Validity, Refused> {
    if !ca.contains(now) {
        let clock = now.truncate_to_second().format(&Rfc3339);
        return Err(Refused::new(
            RefusalCode::Clock,
            format_args!(
                "this machine's clock says {}, but the mesh CA is valid {ca}: set the clock right",
                clock.unwrap_or_default()
            ),
        ));
    }
    let asked = Validity::lasting(now, lifetime).map_err(internal)?;
    Validity::between(
        asked.not_before().max(ca.not_before()),
        asked.not_after().min(ca.not_after()),
    )
    .map_err(internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const MADE: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00:00 UTC);

    #[test]
    fn by_a_clock_that_is_off_a_ca_that_was_made_by_it_is_of_use_again_when_it_is_right() {
        let ca = Validity::of_ca(MADE, 365 * DAY).unwrap();
        for now in [MADE, MADE - DAY, MADE + DAY] {
            let validity = validity(ca, DAY, now).unwrap();
            assert_eq!(validity.not_after(), now + DAY);
            assert!(validity.contains(now));
        }
    }

    #[test]
    fn no_certificate_lives_longer_than_its_ca_or_begins_before_it() {
        let ca = Validity::between(MADE, MADE + DAY).unwrap();
        let validity = validity(ca, 2 * DAY, MADE).unwrap();
        assert_eq!(validity, ca);
    }

    #[test]
    fn by_a_clock_that_the_ca_is_not_valid_by_nothing_is_issued_and_both_times_are_named() {
        let ca = Validity::of_ca(MADE, 365 * DAY).unwrap();
        for now in [MADE - 8 * DAY, MADE + 366 * DAY] {
            let refused = validity(ca, DAY, now).unwrap_err();
            assert_eq!(refused.code, RefusalCode::Clock);
            assert_eq!(refused.reason.matches("T12:00:00Z").count(), 3, "{refused}");
        }
    }
}
