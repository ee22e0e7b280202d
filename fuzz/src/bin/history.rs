//! `Chain::verify` and `Chain::check_extends`: any list of transitions. The rules of a history are
//! written down here a second time, and the two must agree.
//!
//! Each byte of the input picks a transition of [`POOL`]; what follows [`RAW`] is one transition as it
//! is encoded.
#![no_main]

use std::sync::LazyLock;

use attestation::Digest;
use fuzz::{Outcome, sample_history, start};
use history::{Chain, Kind, SignedTransition, TransitionKey};
use libfuzzer_sys::fuzz_target;

/// Precedes an encoded transition.
const RAW: u8 = 0xff;
/// A signature takes long to check.
const MAX_TRANSITIONS: usize = 10;

static KEY: LazyLock<TransitionKey> =
    LazyLock::new(|| sample_history::signer().public_key().clone());
/// A history, what could stand in for parts of it, and at the end what is not signed as it should be.
static POOL: LazyLock<Vec<SignedTransition>> = LazyLock::new(|| {
    let history = sample_history::transitions();
    let head = |index: usize| Some(history[index].transition.head());
    let forks = [
        sample_history::after(None, Kind::Manifest, 9),
        sample_history::after(None, Kind::Recovery, 9),
        sample_history::after(head(0), Kind::Manifest, 9),
        sample_history::after(head(0), Kind::Issue, 1),
        sample_history::after(head(0), Kind::Withdraw, 9),
        sample_history::after(head(1), Kind::Recovery, 2),
        sample_history::after(head(2), Kind::Manifest, 3),
    ];
    let mut changed = history[1].clone();
    changed.transition.time += 1;
    let mut foreign = history[2].clone();
    foreign.signature.clone_from(&history[3].signature);
    let mut pool = [history, forks.to_vec()].concat();
    pool.extend([changed, foreign]);
    pool
});
const WRONGLY_SIGNED: usize = 2;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let raw = [&[0, 1, RAW], &POOL[2].encode()[..]].concat();
    vec![vec![0], vec![0, 1, 2, 3, 4], vec![0, 1, 2, 11], raw]
}

fn attempt(bytes: &[u8]) -> Outcome {
    let Some(transitions) = read(bytes) else {
        return Outcome::Refused;
    };
    let verdict = Chain::verify(transitions.clone(), &KEY);
    let error = verdict.as_ref().err();
    assert_eq!(verdict.is_ok(), is_history(&transitions), "{error:?}");
    match &verdict {
        Ok(chain) => {
            for remembered in POOL.iter().map(|it| it.transition.head()) {
                let contains = chain.iter().any(|it| it.transition.head() == remembered);
                assert_eq!(chain.check_extends(&remembered).is_ok(), contains);
            }
            check_grows(&transitions);
        }
        Err(error) => assert!((1..=transitions.len() as u64 + 1).contains(&error.seq)),
    }
    Outcome::of(&verdict)
}

fn read(bytes: &[u8]) -> Option<Vec<SignedTransition>> {
    let mut transitions = Vec::new();
    for (index, byte) in bytes.iter().enumerate().take(MAX_TRANSITIONS) {
        if *byte == RAW {
            transitions.push(SignedTransition::decode(&bytes[index + 1..]).ok()?);
            break;
        }
        transitions.push(POOL.get(usize::from(*byte))?.clone());
    }
    Some(transitions)
}

/// The rules, over transitions that are known to be signed. A signature may be of an earlier run of
/// this program, whose key was the same.
fn is_history(transitions: &[SignedTransition]) -> bool {
    let rightly_signed = &POOL[..POOL.len() - WRONGLY_SIGNED];
    let mut previous = Digest([0; 32]);
    let mut manifest = None;
    for (signed, seq) in transitions.iter().zip(1..) {
        let transition = &signed.transition;
        let keeps_manifest = manifest == Some(transition.manifest);
        if !rightly_signed.iter().any(|it| it.transition == *transition)
            || KEY.verify(signed).is_err()
            || transition.seq != seq
            || transition.previous != previous
            || (transition.kind != Kind::Manifest && !keeps_manifest)
        {
            return false;
        }
        previous = transition.hash();
        manifest = Some(transition.manifest);
    }
    !transitions.is_empty()
}

/// A history that grows by one transition at a time is the same history.
fn check_grows(transitions: &[SignedTransition]) {
    let [first, rest @ ..] = transitions else {
        return;
    };
    let mut chain = Chain::verify(vec![first.clone()], &KEY).expect("it begins well");
    for next in rest {
        chain.push(next.clone()).expect("it goes on well");
    }
    assert_eq!(chain.iter().count(), transitions.len());
}
