//! What an agent makes of a Coordinator's answer: any bytes as the state of the mesh. What is taken is
//! signed, and lets the agent act for nobody whom it does not name.
//!
//! The agent keeps this to itself, so its source is taken in here.
#![no_main]

use api::v1;
use fuzz::{Outcome, sample_history, start};
use libfuzzer_sys::fuzz_target;
use pem_rfc7468::LineEnding;
use prost::Message;

use mesh_state::MeshState;

#[allow(dead_code, rustdoc::broken_intra_doc_links)]
#[path = "../../../agent/src/enrolment/mesh_state.rs"]
mod mesh_state;
mod policy {
    pub(crate) use agent_config::policy::{Membership, PeerEntry, PeerMatch, PeerSet};
}

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let id = |name: &str| format!("spiffe://shop.example/ns/default/sa/{name}");
    let transitions = sample_history::transitions();
    let certificate = fuzz::vector("snp/sev-crate/vcek_milan.der");
    let pem = pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, &certificate);
    let pem = pem.expect("PEM");
    let state = v1::MeshState {
        transition: transitions[0].encode(),
        transition_key: sample_history::signer().public_key().spki_der().to_vec(),
        root_ca: pem.clone(),
        mesh_cas: vec![pem.clone(), pem],
        generation: 2,
        required_generation: 1,
        deadline: 1_767_225_600,
        members: vec![id("web"), id("db")],
        access: vec![
            v1::Access {
                spiffe_id: id("web"),
                any_member: false,
                allowed_peers: vec![id("db")],
            },
            v1::Access {
                spiffe_id: id("db"),
                any_member: true,
                allowed_peers: vec![],
            },
        ],
        simulated: true,
    };
    let later = v1::MeshState {
        transition: transitions[4].encode(),
        access: vec![],
        ..state.clone()
    };
    vec![state.encode_to_vec(), later.encode_to_vec()]
}

fn attempt(bytes: &[u8]) -> Outcome {
    let Ok(message) = v1::MeshState::decode(bytes) else {
        return Outcome::Refused;
    };
    let read = MeshState::read(message.clone());
    match &read {
        Ok(state) => {
            assert_eq!(state.transition.encode(), message.transition);
            assert!(state.key.verify(&state.transition).is_ok());
            assert_eq!(state.head().seq, state.transition.transition.seq);
            for member in state.members.iter() {
                let is_ours = message
                    .access
                    .iter()
                    .any(|it| it.spiffe_id == member.as_str());
                assert_eq!(state.membership(member).lists(member), is_ours);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    Outcome::of(&read)
}
