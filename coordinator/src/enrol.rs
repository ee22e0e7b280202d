//! Enrolment: from an appraised peer to certificates. Names come from the manifest alone.

use attestation::identity::SpiffeId;
use attestation::{AttestationResult, Digest};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use attested_tls::Peer;
use manifest::{Manifest, Policy, Role};

use crate::audit::Event;
use crate::change::internal;
use crate::core::{Coordinator, Deployment, now};
use crate::deployment::Generation;
use crate::pki::{CertificateClaims, MeshCa, Validity, WorkloadNames};
use crate::refusal::{RefusalCode, Refused};
use crate::roster::{Enrolled, InstanceId};

/// A key that the caller wants certified.
#[derive(Debug)]
pub struct KeyRequest {
    /// `SubjectPublicKeyInfo`, ECDSA on P-256.
    pub public_key: Vec<u8>,
    /// A workload that the caller hosts; `None` for the caller's own identity.
    pub spiffe_id: Option<SpiffeId>,
}

/// A certificate that was issued.
#[derive(Debug)]
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
        Ok(Self {
            hash,
            policy,
            result,
        })
    }

    /// Every workload that the caller may act for: itself, or those that a node hosts.
    pub fn may_act_for(&self, manifest: &'d Manifest) -> Vec<&'d Policy> {
        let hosted = manifest.policies().values().filter(|it| {
            it.role == Role::Workload
                && self.policy.role == Role::Node
                && self.policy.hosts.contains(&it.spiffe_id)
        });
        std::iter::once(self.policy).chain(hosted).collect()
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
        let now = now();
        let generation = deployment.ledger.view().signing();
        let mesh_ca = deployment.keyring.mesh_ca(generation).ok_or_else(|| {
            Refused::new(
                RefusalCode::InRecovery,
                format_args!("the key of mesh CA {generation} is not here yet"),
            )
        })?;
        let validity = validity(mesh_ca, manifest, now)?;
        let claims = CertificateClaims {
            evidence: caller.result.claims(),
            manifest: manifest.hash(),
            transition_seq: deployment.ledger.chain().head().seq,
        };
        // Held from the check to the entry, so that two callers can't share the last place.
        let mut roster = self.roster();
        roster
            .check_cap(instance, caller.hash, caller.policy.max_instances, now)
            .map_err(|error| Refused::new(RefusalCode::TooManyInstances, error))?;
        let issued = requests
            .iter()
            .map(|request| {
                let policy = requested(&caller, manifest, peer, request)?;
                let key = SubjectPublicKeyInfoDer::from(request.public_key.as_slice());
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
        roster.enrolled(
            instance,
            Enrolled {
                policy: caller.hash,
                spiffe_id: caller.policy.spiffe_id.clone(),
                remote: peer.remote,
                not_after,
                generation,
            },
            now,
        );
        self.metrics.instances(roster.len(now));
        drop(roster);
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
}

/// The policy that a request is for, if the caller may ask for it with this key.
fn requested<'d>(
    caller: &Caller<'d>,
    manifest: &'d Manifest,
    peer: &Peer,
    request: &KeyRequest,
) -> Result<&'d Policy, Refused> {
    let digest = Digest::of(&request.public_key);
    if !peer.certified_keys.contains(&digest) {
        return Err(Refused::new(
            RefusalCode::NotAllowed,
            format_args!("the evidence does not vouch for key {digest}"),
        ));
    }
    let Some(spiffe_id) = &request.spiffe_id else {
        return Ok(caller.policy);
    };
    caller
        .may_act_for(manifest)
        .into_iter()
        .find(|policy| &policy.spiffe_id == spiffe_id)
        .ok_or_else(|| {
            Refused::new(
                RefusalCode::NotAllowed,
                format_args!(
                    "policy {} may not ask for {spiffe_id}; list it under Hosts",
                    caller.hash
                ),
            )
        })
}

fn names(policy: &Policy) -> WorkloadNames {
    WorkloadNames {
        spiffe_id: policy.spiffe_id.clone(),
        dns: policy.dns.clone(),
        ip: policy.ip.clone(),
    }
}

fn validity(
    mesh_ca: &MeshCa,
    manifest: &Manifest,
    now: OffsetDateTime,
) -> Result<Validity, Refused> {
    let asked = Validity::lasting(now, manifest.certificate_lifetime()).map_err(internal)?;
    let end = asked.not_after().min(mesh_ca.certificate().not_after());
    Validity::between(asked.not_before(), end).map_err(internal)
}
