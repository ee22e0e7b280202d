//! Between the API's messages and the types that the rest works with.

use api::v1;
use attestation::Digest;
use history::{Authorisation, Head};

use crate::core::Deployment;
use crate::deployment::{MeshView, Stage};
use crate::enrol::{Caller, KeyRequest};
use crate::refusal::{RefusalCode, Refused};
use crate::roster::InstanceId;
use crate::rotate::Pending;
use manifest::{AllowedPeers, Manifest};

pub(super) fn digest(field: &str, bytes: &[u8]) -> Result<Digest, Refused> {
    bytes
        .try_into()
        .map(Digest)
        .map_err(|_| malformed(format_args!("{field}: got {} bytes, want 32", bytes.len())))
}

pub(super) fn instance(bytes: &[u8]) -> Result<InstanceId, Refused> {
    bytes
        .try_into()
        .map(InstanceId)
        .map_err(|_| malformed(format_args!("instance: got {} bytes, want 16", bytes.len())))
}

pub(super) fn known_head(head: Option<&v1::Head>) -> Result<Option<Head>, Refused> {
    head.filter(|head| head.seq > 0)
        .map(|head| {
            Ok(Head {
                seq: head.seq,
                hash: digest("known.transition", &head.transition)?,
            })
        })
        .transpose()
}

pub(super) fn head(head: &Head) -> v1::Head {
    v1::Head {
        seq: head.seq,
        transition: head.hash.0.to_vec(),
    }
}

pub(super) fn authorisations(messages: Vec<v1::Authorisation>) -> Vec<Authorisation> {
    messages
        .into_iter()
        .map(|it| Authorisation {
            key: it.key,
            signature: it.signature,
        })
        .collect()
}

pub(super) fn key_requests(messages: Vec<v1::KeyRequest>) -> Result<Vec<KeyRequest>, Refused> {
    messages
        .into_iter()
        .map(|it| {
            let spiffe_id = match it.spiffe_id.as_str() {
                "" => None,
                text => Some(
                    text.parse()
                        .map_err(|error| malformed(format_args!("spiffe_id: {error}")))?,
                ),
            };
            Ok(KeyRequest {
                public_key: it.public_key,
                spiffe_id,
            })
        })
        .collect()
}

/// Every mesh CA that is trusted, the newest first.
pub(super) fn mesh_cas(deployment: &Deployment) -> Vec<String> {
    let records = deployment.ledger.pki().values().rev();
    records.map(|it| it.mesh_ca.pem()).collect()
}

pub(super) fn rotation(
    view: &MeshView,
    pending: Option<&Pending>,
    waiting_for: Vec<String>,
) -> v1::Rotation {
    let stage = match view.stage() {
        Stage::Trust => v1::Stage::Trust,
        Stage::Issue => v1::Stage::Issue,
        Stage::Done => v1::Stage::Done,
    };
    v1::Rotation {
        stage: stage.into(),
        generation: view.newest(),
        deadline: pending.map_or(0, |it| it.deadline_at().unix_timestamp().unsigned_abs()),
        waiting_for,
    }
}

pub(super) fn mesh_state(
    deployment: &Deployment,
    pending: Option<&Pending>,
    caller: &Caller<'_>,
) -> v1::MeshState {
    let Deployment {
        ledger, keyring, ..
    } = deployment;
    let manifest: &Manifest = ledger.manifest();
    let mut members: Vec<_> = manifest
        .policies()
        .values()
        .filter(|it| it.role != manifest::Role::Coordinator)
        .map(|it| it.spiffe_id.to_string())
        .collect();
    members.sort_unstable();
    members.dedup();
    let access = caller
        .may_act_for(manifest)
        .into_iter()
        .map(|policy| {
            let (any_member, allowed_peers) = match &policy.allowed_peers {
                AllowedPeers::Any => (true, vec![]),
                AllowedPeers::Only(peers) => {
                    (false, peers.iter().map(ToString::to_string).collect())
                }
            };
            v1::Access {
                spiffe_id: policy.spiffe_id.to_string(),
                any_member,
                allowed_peers,
            }
        })
        .collect();
    v1::MeshState {
        transition: ledger
            .latest()
            .map(history::SignedTransition::encode)
            .unwrap_or_default(),
        transition_key: keyring.signer().public_key().spki_der().to_vec(),
        root_ca: keyring.root().certificate().pem(),
        mesh_cas: mesh_cas(deployment),
        generation: ledger.view().newest(),
        required_generation: ledger.view().required(),
        deadline: pending.map_or(0, |it| it.deadline_at().unix_timestamp().unsigned_abs()),
        members,
        access,
        simulated: !manifest.reference_values().simulated.is_empty(),
    }
}

pub(super) fn malformed(what: impl std::fmt::Display) -> Refused {
    Refused::told(RefusalCode::Malformed, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_and_instances_have_one_length() {
        for length in [0, 16, 31, 33] {
            let refused = digest("previous_transition", &vec![7; length]).unwrap_err();
            assert_eq!(refused.code, RefusalCode::Malformed);
            let detail = refused.detail.unwrap();
            assert!(
                detail.contains(&format!("got {length} bytes, want 32")),
                "{detail}"
            );
        }
        assert_eq!(digest("", &[7; 32]).unwrap(), Digest([7; 32]));
        instance(&[7; 15]).unwrap_err();
        assert_eq!(instance(&[7; 16]).unwrap(), InstanceId([7; 16]));
    }

    #[test]
    fn who_knows_nothing_has_no_head() {
        assert_eq!(known_head(None).unwrap(), None);
        let nothing = v1::Head::default();
        assert_eq!(known_head(Some(&nothing)).unwrap(), None);
        let halved = v1::Head {
            seq: 3,
            transition: vec![1; 5],
        };
        known_head(Some(&halved)).unwrap_err();
    }

    #[test]
    fn a_key_is_for_the_caller_or_for_a_spiffe_id() {
        let request = |spiffe_id: &str| {
            key_requests(vec![v1::KeyRequest {
                public_key: vec![1],
                spiffe_id: spiffe_id.to_owned(),
            }])
        };
        assert_eq!(request("").unwrap()[0].spiffe_id, None);
        let id = "spiffe://mesh.local/ns/default/sa/web";
        let named = request(id).unwrap().remove(0).spiffe_id;
        assert_eq!(named.unwrap().to_string(), id);
        for bad in [
            "web",
            "spiffe://",
            "spiffe://mesh.local/a/../b",
            "https://mesh.local/a",
        ] {
            let refused = request(bad).unwrap_err();
            assert_eq!(refused.code, RefusalCode::Malformed, "{bad}");
        }
    }
}
