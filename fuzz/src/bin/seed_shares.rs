//! `SharesDocument::parse`: any bytes. A document that is read is consistent, and is read again from
//! what it is written as; its hash does not depend on the transition that it names.
#![no_main]

use attestation::Digest;
use fuzz::rsa_owner::RsaOwner;
use fuzz::{Outcome, sample_history, start};
use libfuzzer_sys::fuzz_target;
use seed::{SharesDocument, split};

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let owners = [(); 3].map(|()| RsaOwner::new().public);
    let document = split(&sample_history::seed(), &owners, 2).expect("shares");
    let alone = split(&sample_history::seed(), &owners[..1], 1).expect("a share");
    [
        alone,
        document.clone(),
        document.with_transition(Digest([9; 32])),
    ]
    .map(|it| it.to_json().into_bytes())
    .to_vec()
}

fn attempt(bytes: &[u8]) -> Outcome {
    let parsed = SharesDocument::parse(bytes);
    match &parsed {
        Ok(document) => {
            assert!((1..=document.owners().len()).contains(&document.threshold().into()));
            let again = SharesDocument::parse(document.to_json().as_bytes()).expect("it is read");
            assert_eq!(&again, document);
            let other = again.with_transition(Digest([1; 32]));
            assert_eq!(other.hash(), document.hash());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    Outcome::of(&parsed)
}
