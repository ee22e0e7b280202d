//! What a Coordinator finds in its store, `Entry::decode` and `PkiRecord::decode`: any bytes. What is
//! read is read again from what it is written as.
#![no_main]

use std::sync::LazyLock;

use attestation::Digest;
use attestation::identity::TrustDomain;
use coordinator::deployment::{Entry, Keyring, PkiRecord};
use fuzz::{Outcome, sample_history, start};
use libfuzzer_sys::fuzz_target;
use time::OffsetDateTime;

static RECORD: LazyLock<PkiRecord> = LazyLock::new(|| {
    let trust_domain = TrustDomain::parse("shop.example").expect("a trust domain");
    let now = OffsetDateTime::now_utc();
    let keyring = Keyring::create(sample_history::seed(), &trust_domain, now).expect("keys");
    let mesh_ca = keyring.new_mesh_ca(now).expect("a mesh CA");
    PkiRecord {
        root: keyring.root().certificate().clone(),
        mesh_ca: mesh_ca.certificate().clone(),
        intermediate: mesh_ca.intermediate().clone(),
    }
});

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let entry = |previous, objects| {
        let [transition, ..] = &sample_history::transitions()[..] else {
            panic!("an empty history");
        };
        Entry {
            transition: transition.clone(),
            previous,
            objects,
        }
        .encode()
    };
    vec![
        entry(None, vec![]),
        entry(Some(Digest([1; 32])), vec![Digest([2; 32]); 3]),
        RECORD.encode(),
    ]
}

fn attempt(bytes: &[u8]) -> Outcome {
    let entry = Entry::decode(bytes);
    match &entry {
        Ok(entry) => {
            let encoded = entry.encode();
            let again = Entry::decode(&encoded).expect("it is read again");
            assert_eq!(again.encode(), encoded);
            assert_eq!(again.transition, entry.transition);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let record = PkiRecord::decode(bytes);
    match &record {
        Ok(record) => {
            let again = PkiRecord::decode(&record.encode()).expect("it is read again");
            assert_eq!(again.intermediate, record.intermediate);
            let key = |it: &coordinator::pki::CaCertificate| it.trust_domain().clone();
            assert_eq!(key(&record.mesh_ca), key(&record.intermediate));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    Outcome::accepted_if(entry.is_ok() || record.is_ok())
}
