//! What a Coordinator says of the mesh, read and checked for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::v1;
use attestation::identity::{SpiffeId, SpiffeIdError};
use history::{
    Head, SignedTransition, TransitionError, TransitionKey, TransitionKeyError, WrongSignature,
};
use pem_rfc7468::LineEnding;
use thiserror::Error;

use crate::policy::{Membership, PeerEntry, PeerMatch, PeerSet};

/// What a Coordinator says of the mesh. Its signature is right; whether it is of the deployment that
/// is remembered, and not older, is [`Memory`](super::memory::Memory)'s to say.
#[derive(Clone, Debug)]
pub(crate) struct MeshState {
    /// The latest transition.
    pub(crate) transition: SignedTransition,
    /// The key that signed it.
    pub(crate) key: TransitionKey,
    /// The root CA's certificate, DER.
    pub(crate) root_ca: Vec<u8>,
    /// The certificates of every mesh CA that is trusted, PEM.
    pub(crate) trust_bundle: Arc<str>,
    /// The generation of the newest mesh CA.
    pub(crate) generation: u64,
    /// The oldest generation that certificates may be of.
    pub(crate) required_generation: u64,
    /// When certificates of older generations end.
    pub(crate) deadline: Option<SystemTime>,
    /// Every identity of the mesh.
    pub(crate) members: Arc<BTreeSet<SpiffeId>>,
    /// The identities that this agent may ask for, and whom each may meet.
    pub(crate) access: BTreeMap<SpiffeId, PeerSet>,
    /// Whether certificates rest on a simulated TEE.
    pub(crate) simulated: bool,
}

impl MeshState {
    /// Reads the message and verifies the transition's signature.
    pub(crate) fn read(message: v1::MeshState) -> Result<Self, StateError> {
        let v1::MeshState {
            transition,
            transition_key,
            root_ca,
            mesh_cas,
            generation,
            required_generation,
            deadline,
            members,
            access,
            simulated,
        } = message;
        let key = TransitionKey::from_spki(&transition_key)?;
        let transition = SignedTransition::decode(&transition)?;
        key.verify(&transition)?;
        if mesh_cas.is_empty() {
            return Err(StateError::NoMeshCa);
        }
        for mesh_ca in &mesh_cas {
            certificate(mesh_ca).ok_or(StateError::MeshCa)?;
        }
        let deadline = Some(deadline)
            .filter(|&deadline| deadline != 0)
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        let members = members
            .iter()
            .map(|id| identity(id))
            .collect::<Result<BTreeSet<_>, _>>()?;
        let access = access
            .into_iter()
            .map(|it| Ok((identity(&it.spiffe_id)?, peers(&it)?)))
            .collect::<Result<BTreeMap<_, _>, StateError>>()?;
        Ok(Self {
            transition,
            key,
            // Two Coordinators may break lines differently; what counts is what the lines say.
            root_ca: certificate(&root_ca).ok_or(StateError::RootCa)?,
            trust_bundle: lines(&mesh_cas).into(),
            generation,
            required_generation,
            deadline,
            members: Arc::new(members),
            access,
            simulated,
        })
    }

    /// The end of the history that it speaks of.
    pub(crate) fn head(&self) -> Head {
        self.transition.transition.head()
    }

    /// The root CA's certificate, PEM.
    pub(crate) fn root_ca_pem(&self) -> String {
        // Fails only for labels and lengths that no certificate has.
        pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, &self.root_ca).unwrap_or_default()
    }

    /// What the mesh says of the workload with this identity. Where this agent may not act for it,
    /// the membership does not list it, which shuts it out.
    pub(crate) fn membership(&self, identity: &SpiffeId) -> Membership {
        match self.access.get(identity) {
            Some(allowed_peers) => Membership {
                members: Some(Arc::clone(&self.members)),
                allowed_peers: allowed_peers.clone(),
            },
            None => nobody(),
        }
    }
}

/// The membership of a workload that is shut out.
pub(crate) fn nobody() -> Membership {
    Membership {
        members: Some(Arc::default()),
        allowed_peers: PeerSet::from_iter([]),
    }
}

fn identity(text: &str) -> Result<SpiffeId, StateError> {
    SpiffeId::parse(text).map_err(|reason| StateError::SpiffeId {
        got: text.to_owned(),
        reason,
    })
}

fn peers(access: &v1::Access) -> Result<PeerSet, StateError> {
    if access.any_member {
        return Ok(PeerSet::any());
    }
    access
        .allowed_peers
        .iter()
        .map(|id| identity(id).map(|id| PeerEntry::Allow(PeerMatch::SpiffeId(id))))
        .collect()
}

fn lines(documents: &[String]) -> String {
    let mut text = String::new();
    for document in documents {
        text.push_str(document.trim());
        text.push('\n');
    }
    text
}

/// The DER form of what has to be one PEM certificate.
fn certificate(pem: &str) -> Option<Vec<u8>> {
    match pem_rfc7468::decode_vec(pem.as_bytes()) {
        Ok(("CERTIFICATE", der)) => Some(der),
        _ => None,
    }
}

/// Why what a Coordinator says is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum StateError {
    /// The answer has none.
    #[error("the Coordinator's answer has no state of the mesh")]
    Missing,
    /// The transition can't be read.
    #[error("the Coordinator's latest transition: {0}")]
    Transition(#[from] TransitionError),
    /// The key that signs transitions can't be read.
    #[error("the Coordinator's transition key: {0}")]
    TransitionKey(#[from] TransitionKeyError),
    /// The transition was changed, or not signed with that key.
    #[error("the Coordinator's latest transition: {0}")]
    Signature(#[from] WrongSignature),
    /// Not one PEM certificate.
    #[error("the Coordinator's root CA is not one PEM certificate")]
    RootCa,
    /// Not one PEM certificate.
    #[error("a mesh CA of the Coordinator's is not one PEM certificate")]
    MeshCa,
    /// Nobody would be trusted.
    #[error("the Coordinator names no mesh CA")]
    NoMeshCa,
    /// An identity of the mesh is none.
    #[error("the Coordinator names {got:?} as an identity: {reason}")]
    SpiffeId {
        /// What it names.
        got: String,
        /// What is wrong with it.
        reason: SpiffeIdError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrolment::testing::{self, Deployment};

    fn id(name: &str) -> SpiffeId {
        testing::spiffe_id(name)
    }

    #[test]
    fn a_state_is_read_with_its_signature() {
        let deployment = Deployment::new();
        let state = MeshState::read(deployment.state(3)).unwrap();
        assert_eq!(state.head().seq, 3);
        assert!(state.members.contains(&id("web")));
        let membership = state.membership(&id("web"));
        assert!(membership.lists(&id("web")) && membership.lists(&id("db")));
        assert!(membership.allowed_peers.allows(&id("db")));
        assert_eq!(state.deadline, None);
    }

    #[test]
    fn a_workload_that_this_agent_may_not_act_for_is_shut_out() {
        let state = MeshState::read(Deployment::new().state(3)).unwrap();
        assert!(state.members.contains(&id("other")));
        let membership = state.membership(&id("other"));
        assert!(!membership.lists(&id("other")));
        assert!(!membership.allowed_peers.allows(&id("web")));
    }

    #[test]
    fn whom_a_workload_may_meet_is_taken_over() {
        let mut message = Deployment::new().state(3);
        message.access = vec![v1::Access {
            spiffe_id: id("web").to_string(),
            any_member: false,
            allowed_peers: vec![id("db").to_string()],
        }];
        let state = MeshState::read(message).unwrap();
        let membership = state.membership(&id("web"));
        assert!(membership.allowed_peers.allows(&id("db")));
        assert!(!membership.allowed_peers.allows(&id("other")));
    }

    #[test]
    fn a_state_that_is_wrong_in_one_place_is_refused_with_the_place() {
        let deployment = Deployment::new();
        let change = |change: fn(&mut v1::MeshState)| {
            let mut message = deployment.state(3);
            change(&mut message);
            MeshState::read(message).unwrap_err().to_string()
        };
        for (error, part) in [
            (change(|it| it.transition[40] ^= 1), "transition"),
            (change(|it| it.transition.clear()), "cut off"),
            (change(|it| it.transition_key.clear()), "P-384"),
            (
                change(|it| it.transition_key = Deployment::new().state(1).transition_key),
                "signature",
            ),
            (change(|it| it.root_ca.clear()), "root CA"),
            (change(|it| it.root_ca = it.root_ca.repeat(2)), "root CA"),
            (change(|it| it.mesh_cas.clear()), "names no mesh CA"),
            (change(|it| it.mesh_cas[0].clear()), "a mesh CA"),
            (change(|it| it.members.push("web".to_owned())), "\"web\""),
            (
                change(|it| it.access[0].spiffe_id = "spiffe://".to_owned()),
                "spiffe://",
            ),
            (
                change(|it| {
                    it.access[0].any_member = false;
                    it.access[0].allowed_peers.push("any".to_owned());
                }),
                "\"any\"",
            ),
        ] {
            assert!(error.contains(part), "{error}, not {part}");
        }
    }

    #[test]
    fn no_single_flipped_bit_of_a_transition_is_accepted() {
        let message = Deployment::new().state(3);
        for bit in 0..message.transition.len() * 8 {
            let mut message = message.clone();
            message.transition[bit / 8] ^= 1 << (bit % 8);
            MeshState::read(message).unwrap_err();
        }
    }
}
