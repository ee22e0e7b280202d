//! `SignedTransition::decode` and `Transition::decode`: any bytes. Each value has one encoding: what
//! is read is written as the very bytes again.
#![no_main]

use fuzz::{Outcome, sample_history, start};
use history::{SignedTransition, Transition};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let transitions = sample_history::transitions();
    let signed = transitions.iter().map(SignedTransition::encode);
    let bare = transitions.iter().map(|it| it.transition.encode());
    signed.chain(bare).collect()
}

fn attempt(bytes: &[u8]) -> Outcome {
    let signed = SignedTransition::decode(bytes);
    match &signed {
        Ok(signed) => assert_eq!(signed.encode(), bytes),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let bare = Transition::decode(bytes);
    match &bare {
        Ok(transition) => {
            assert_eq!(transition.encode(), bytes);
            assert_eq!(transition.head().hash, transition.hash());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    Outcome::accepted_if(signed.is_ok() || bare.is_ok())
}
