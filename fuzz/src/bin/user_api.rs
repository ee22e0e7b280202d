//! The user API, which needs no attestation: any bytes as a request to set a manifest or to give a
//! share, at a Coordinator that waits for its first manifest, one that is ready, and one in recovery.
//! Without the owners' signatures nothing is set; without the last share nothing is recovered.
//!
//! The first byte of the input picks the Coordinator and the call.
#![no_main]

use std::sync::LazyLock;

use api::v1;
use api::v1::user_api_server::UserApi;
use attestation::Digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use coordinator::core::Phase;
use coordinator::server::UserService;
use fuzz::coordinators::{self, Machine};
use fuzz::rsa_owner::RsaOwner;
use fuzz::{Outcome, start};
use history::{OwnerKey, update_statement};
use libfuzzer_sys::fuzz_target;
use pem_rfc7468::LineEnding;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::Status;

const SET_FIRST: u8 = 0;
const SET_NEXT: u8 = 1;
const SET_IN_RECOVERY: u8 = 2;
const RECOVER: u8 = 3;

/// Coordinators of one manifest, and what its owners would send them.
struct Coordinators {
    runtime: Runtime,
    waiting: UserService,
    ready: UserService,
    recovering: UserService,
    /// Right in all but what the owner signed.
    update: v1::SetManifestRequest,
    /// All but the last.
    shares: Vec<Vec<u8>>,
}

static COORDINATORS: LazyLock<Coordinators> = LazyLock::new(|| {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().expect("a runtime");
    let owner = owner_key();
    let seedshare_owners = [(); 3].map(|()| RsaOwner::new());
    let manifest = Machine::new().manifest(&[owner.digest()], &seedshare_owners);
    let (waiting, ready, recovering) = runtime.block_on(async {
        let waiting = coordinators::start(coordinators::store().await, vec![owner.digest()]).await;
        let store = coordinators::store().await;
        let ready = coordinators::start(store.clone(), vec![]).await;
        coordinators::set_first(&ready, &manifest).await;
        (waiting, ready, coordinators::start(store, vec![]).await)
    });
    let Phase::Recovery(unverified) = recovering.phase() else {
        panic!("the second one has no seed yet");
    };
    let shares = seedshare_owners.iter().take(2).map(|owner| {
        let share = unverified
            .shares
            .decrypt(&owner.private_pem)
            .expect("a share");
        share.encode().to_vec()
    });
    let statement = update_statement(&manifest.hash(), &Digest([9; 32]));
    let authorisation = owner.sign(&statement).expect("a signature");
    Coordinators {
        shares: shares.collect(),
        update: v1::SetManifestRequest {
            manifest: manifest.bytes().to_vec(),
            policies: vec![],
            authorisations: vec![v1::Authorisation {
                key: authorisation.key,
                signature: authorisation.signature,
            }],
            previous_transition: None,
        },
        runtime,
        waiting: UserService::new(waiting),
        ready: UserService::new(ready),
        recovering: UserService::new(recovering),
    }
});

fn owner_key() -> OwnerKey {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let key = key.to_pkcs8v1().expect("a key, DER");
    let pem = pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, key.as_ref());
    OwnerKey::from_pem(&pem.expect("PEM")).expect("a key")
}

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let update = COORDINATORS.update.encode_to_vec();
    let mut seeds = [SET_FIRST, SET_NEXT, SET_IN_RECOVERY]
        .map(|call| [&[call], &update[..]].concat())
        .to_vec();
    seeds.extend(COORDINATORS.shares.iter().map(|share| {
        let request = v1::RecoverRequest {
            share: share.clone(),
            known: None,
        };
        [vec![RECOVER], request.encode_to_vec()].concat()
    }));
    seeds
}

/// Accepted is a request that only consent stood against.
fn attempt(bytes: &[u8]) -> Outcome {
    let Coordinators {
        waiting,
        ready,
        recovering,
        ..
    } = &*COORDINATORS;
    match bytes {
        [SET_FIRST, message @ ..] => set(waiting, message),
        [SET_NEXT, message @ ..] => set(ready, message),
        [SET_IN_RECOVERY, message @ ..] => set(recovering, message),
        [RECOVER, message @ ..] => recover(recovering, message),
        _ => Outcome::Refused,
    }
}

fn set(service: &UserService, message: &[u8]) -> Outcome {
    let Ok(message) = v1::SetManifestRequest::decode(message) else {
        return Outcome::Refused;
    };
    let request = tonic::Request::new(message);
    match COORDINATORS.runtime.block_on(service.set_manifest(request)) {
        Ok(_) => panic!("no owner has signed this"),
        Err(status) => {
            let code = code(&status);
            Outcome::accepted_if(["not-authorised", "in-recovery"].contains(&code.as_str()))
        }
    }
}

fn recover(service: &UserService, message: &[u8]) -> Outcome {
    let Ok(message) = v1::RecoverRequest::decode(message) else {
        return Outcome::Refused;
    };
    let is_share = COORDINATORS.shares.contains(&message.share);
    let request = tonic::Request::new(message);
    let answer = COORDINATORS.runtime.block_on(service.recover(request));
    match &answer {
        Ok(progress) => {
            assert!(is_share, "no owner was given this");
            assert!(!progress.get_ref().recovered, "a share is missing");
        }
        Err(status) => assert_ne!(code(status), ""),
    }
    Outcome::of(&answer)
}

/// A refusal has a code and an id, and is never for want of anything but sense.
fn code(status: &Status) -> String {
    let code = status.metadata().get(api::CODE).expect("a code");
    let code = code.to_str().expect("text").to_owned();
    assert!(!["internal", "store"].contains(&code.as_str()), "{status}");
    assert!(status.metadata().contains_key(api::ID));
    code
}
