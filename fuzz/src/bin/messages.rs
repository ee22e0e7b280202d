//! Every message of the Coordinator's two APIs: any bytes. What is read is read again from what it is
//! written as.
#![no_main]

use api::v1;
use fuzz::{Outcome, sample_history, start};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let transition = sample_history::transitions()[0].encode();
    let head = v1::Head {
        seq: 3,
        transition: vec![1; 32],
    };
    let key = v1::KeyRequest {
        public_key: vec![2; 91],
        spiffe_id: "spiffe://shop.example/ns/default/sa/web".to_owned(),
    };
    let certificate = v1::Certificate {
        spiffe_id: key.spiffe_id.clone(),
        chain: "-----BEGIN CERTIFICATE-----".to_owned(),
        generation: 2,
        workload_secret: Some(vec![3; 64]),
    };
    let authorisation = v1::Authorisation {
        key: vec![4; 91],
        signature: vec![5; 70],
    };
    vec![
        v1::EnrolRequest {
            keys: vec![key.clone(), key],
            instance: vec![6; 16],
            known: transition.clone(),
        }
        .encode_to_vec(),
        v1::EnrolResponse {
            certificates: vec![certificate],
            state: None,
        }
        .encode_to_vec(),
        v1::SetManifestRequest {
            manifest: b"{}".to_vec(),
            policies: vec![b"package agent".to_vec()],
            authorisations: vec![authorisation],
            previous_transition: Some(vec![7; 32]),
        }
        .encode_to_vec(),
        v1::RecoverRequest {
            share: vec![8; 104],
            known: Some(head.clone()),
        }
        .encode_to_vec(),
        v1::Status {
            phase: v1::Phase::Ready.into(),
            head: Some(head),
            mesh_cas: vec!["-----BEGIN CERTIFICATE-----".to_owned()],
            rotation: Some(v1::Rotation {
                stage: v1::Stage::Issue.into(),
                generation: 2,
                deadline: 1_767_225_600,
                waiting_for: vec!["spiffe://shop.example/ns/default/sa/web".to_owned()],
            }),
            ..v1::Status::default()
        }
        .encode_to_vec(),
        v1::HistoryEntry {
            transition,
            objects: vec![b"{}".to_vec()],
        }
        .encode_to_vec(),
    ]
}

fn attempt(bytes: &[u8]) -> Outcome {
    let read = [
        survives::<v1::EnrolRequest>(bytes),
        survives::<v1::EnrolResponse>(bytes),
        survives::<v1::WatchRequest>(bytes),
        survives::<v1::MeshState>(bytes),
        survives::<v1::AcknowledgeRequest>(bytes),
        survives::<v1::RecoverPeerResponse>(bytes),
        survives::<v1::GetPendingRequest>(bytes),
        survives::<v1::Pending>(bytes),
        survives::<v1::Status>(bytes),
        survives::<v1::HistoryEntry>(bytes),
        survives::<v1::SetManifestRequest>(bytes),
        survives::<v1::SetManifestResponse>(bytes),
        survives::<v1::RecoverRequest>(bytes),
        survives::<v1::RecoverResponse>(bytes),
    ];
    Outcome::accepted_if(read.contains(&true))
}

/// Whether the bytes are a message of the kind.
fn survives<M: Message + Default + PartialEq>(bytes: &[u8]) -> bool {
    let Ok(message) = M::decode(bytes) else {
        return false;
    };
    let encoded = message.encode_to_vec();
    assert!(M::decode(&*encoded).is_ok_and(|it| it == message));
    true
}
