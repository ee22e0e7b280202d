//! The mesh API behind attestation: any bytes as a request of an agent whose evidence was accepted, at
//! a Coordinator that is ready. It gets certificates for its own keys and for the identities that the
//! manifest gives it, or none.
//!
//! The first byte of the input picks the caller and the call.
#![no_main]

use std::sync::{Arc, LazyLock};

use api::v1;
use api::v1::mesh_api_server::MeshApi;
use attestation::Digest;
use attested_tls::{ConnectedPeer, Peer};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use coordinator::server::MeshService;
use fuzz::coordinators::{self, Machine};
use fuzz::rsa_owner::RsaOwner;
use fuzz::sample_manifests::{NODE, WORKLOAD};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status};

const NODE_ENROLS: u8 = 0;
const WORKLOAD_ENROLS: u8 = 1;
const NODE_ACKNOWLEDGES: u8 = 2;

const WEB: &str = "spiffe://shop.example/ns/default/sa/web";
const DB: &str = "spiffe://shop.example/ns/data/sa/db";
const BLUE: &str = "spiffe://shop.example/node/blue";

/// A Coordinator and its callers.
struct Mesh {
    runtime: Runtime,
    service: MeshService,
    node: Arc<Peer>,
    workload: Arc<Peer>,
    /// What the callers' evidence vouches for.
    keys: [Vec<u8>; 2],
}

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().expect("a runtime");
    let machine = Machine::new();
    let manifest = machine.manifest(&[], &[RsaOwner::new()]);
    let coordinator = runtime.block_on(async {
        let coordinator = coordinators::start(coordinators::store().await, vec![]).await;
        coordinators::set_first(&coordinator, &manifest).await;
        coordinator
    });
    let keys = [(); 2].map(|()| {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
        let spki: PublicKeyX509Der<'_> = key.public_key().as_der().expect("a key, DER");
        spki.as_ref().to_vec()
    });
    let peer = |policy| {
        Arc::new(Peer {
            result: Some(machine.appraised(&manifest, policy)),
            key: Digest([8; 32]),
            manifest: Some(manifest.hash()),
            certified_keys: keys.iter().map(|it| Digest::of(it)).collect(),
            remote: None,
        })
    };
    Mesh {
        runtime,
        service: MeshService::new(coordinator),
        node: peer(NODE),
        workload: peer(WORKLOAD),
        keys,
    }
});

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let key = |index: usize, spiffe_id: &str| v1::KeyRequest {
        public_key: MESH.keys[index].clone(),
        spiffe_id: spiffe_id.to_owned(),
    };
    let enrol = |call, keys| {
        let request = v1::EnrolRequest {
            keys,
            instance: vec![6; 16],
            known: vec![],
        };
        [vec![call], request.encode_to_vec()].concat()
    };
    let acknowledge = v1::AcknowledgeRequest {
        instance: vec![6; 16],
        trusted_generation: 1,
        certificate_generation: 1,
    };
    vec![
        enrol(WORKLOAD_ENROLS, vec![key(0, "")]),
        enrol(NODE_ENROLS, vec![key(0, WEB), key(1, DB)]),
        enrol(NODE_ENROLS, vec![key(0, ""), key(0, WEB)]),
        [vec![NODE_ACKNOWLEDGES], acknowledge.encode_to_vec()].concat(),
    ]
}

fn attempt(bytes: &[u8]) -> Outcome {
    match bytes {
        [NODE_ENROLS, message @ ..] => enrol(&MESH.node, message, &[BLUE, WEB, DB]),
        [WORKLOAD_ENROLS, message @ ..] => enrol(&MESH.workload, message, &[WEB]),
        [NODE_ACKNOWLEDGES, message @ ..] => {
            let Ok(message) = v1::AcknowledgeRequest::decode(message) else {
                return Outcome::Refused;
            };
            let request = request(&MESH.node, message);
            outcome(&MESH.runtime.block_on(MESH.service.acknowledge(request)))
        }
        _ => Outcome::Refused,
    }
}

fn enrol(caller: &Arc<Peer>, message: &[u8], may_be: &[&str]) -> Outcome {
    let Ok(message) = v1::EnrolRequest::decode(message) else {
        return Outcome::Refused;
    };
    let keys = message.keys.clone();
    let request = request(caller, message);
    let answer = MESH.runtime.block_on(MESH.service.enrol(request));
    if let Ok(answer) = &answer {
        let certificates = &answer.get_ref().certificates;
        assert_eq!(certificates.len(), keys.len());
        for (certificate, key) in certificates.iter().zip(keys) {
            assert!(
                MESH.keys.contains(&key.public_key),
                "nobody vouches for this key"
            );
            assert!(may_be.contains(&certificate.spiffe_id.as_str()));
            assert!([certificate.spiffe_id.as_str(), ""].contains(&key.spiffe_id.as_str()));
        }
    }
    outcome(&answer)
}

fn request<T>(caller: &Arc<Peer>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .extensions_mut()
        .insert(ConnectedPeer(Arc::clone(caller)));
    request
}

/// A refusal has a code and an id, and is never for want of anything but sense.
fn outcome<T>(answer: &Result<Response<T>, Status>) -> Outcome {
    if let Err(status) = answer {
        let code = status.metadata().get(api::CODE).expect("a code");
        assert!(
            !["internal", "store"].iter().any(|it| code == it),
            "{status}"
        );
        assert!(status.metadata().contains_key(api::ID));
    }
    Outcome::of(answer)
}
