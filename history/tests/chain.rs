//! A history that is not whole, in order and signed is refused, and the place named.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use attestation::Digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING};
use aws_lc_rs::signature::{EcdsaKeyPair, EcdsaSigningAlgorithm};
use history::{
    Authorisation, Chain, ChainError, ChainFault, Head, Kind, MAX_AUTHORISATIONS, Rollback,
    SignError, SignedTransition, SigningKeyError, Transition, TransitionError, TransitionKey,
    TransitionKeyError, TransitionPart, TransitionSigner, WrongSignature,
};

fn signer() -> TransitionSigner {
    TransitionSigner::from_pkcs8(&pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING)).unwrap()
}

fn pkcs8(algorithm: &'static EcdsaSigningAlgorithm) -> Vec<u8> {
    EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new())
        .unwrap()
        .as_ref()
        .to_vec()
}

/// The transition that makes manifest `manifest` follow `previous`.
fn next(previous: Head, kind: Kind, manifest: u8) -> Transition {
    Transition {
        seq: previous.seq + 1,
        previous: previous.hash,
        kind,
        manifest: Digest([manifest; 32]),
        pki: Digest::of(&previous.seq.to_be_bytes()),
        seed_shares: Digest([9; 32]),
        time: 1_800_000_000 + previous.seq,
        authorisations: vec![Authorisation {
            key: vec![1; 120],
            signature: vec![2; 103],
        }],
    }
}

const START: Head = Head {
    seq: 0,
    hash: Digest([0; 32]),
};

/// Manifests 1, 2, 3, a recovery of 3, manifest 5.
fn transitions(signer: &TransitionSigner) -> Vec<SignedTransition> {
    let mut head = START;
    [
        (Kind::Manifest, 1),
        (Kind::Manifest, 2),
        (Kind::Manifest, 3),
        (Kind::Recovery, 3),
        (Kind::Manifest, 5),
    ]
    .into_iter()
    .map(|(kind, manifest)| {
        let transition = next(head, kind, manifest);
        head = transition.head();
        signer.sign(transition).unwrap()
    })
    .collect()
}

fn fault(
    transitions: impl IntoIterator<Item = SignedTransition>,
    signer: &TransitionSigner,
) -> (u64, ChainFault) {
    let ChainError { seq, why } =
        Chain::verify(transitions.into_iter().collect(), signer.public_key()).unwrap_err();
    (seq, why)
}

#[test]
fn a_whole_history_is_accepted_and_so_is_each_beginning_of_it() {
    let signer = signer();
    let transitions = transitions(&signer);
    for len in 1..=transitions.len() {
        let chain = Chain::verify(transitions[..len].to_vec(), signer.public_key()).unwrap();
        assert_eq!(chain.head(), transitions[len - 1].transition.head());
        assert_eq!(chain.head().seq, len as u64);
        assert!(chain.iter().eq(&transitions[..len]));
        assert!((&chain).into_iter().eq(&transitions[..len]));
    }
}

#[test]
fn an_empty_history_is_refused() {
    assert_eq!(fault([], &signer()), (1, ChainFault::Empty));
}

#[test]
fn pushing_verifies_as_reading_does_and_a_refused_transition_changes_nothing() {
    let signer = signer();
    let transitions = transitions(&signer);
    let mut chain = Chain::verify(transitions[..1].to_vec(), signer.public_key()).unwrap();
    for (position, transition) in transitions.iter().enumerate().skip(1) {
        let head = chain.head();
        for (wrong, other) in transitions.iter().enumerate() {
            if wrong != position {
                assert_eq!(
                    chain.push(other.clone()).unwrap_err(),
                    ChainError {
                        seq: position as u64 + 1,
                        why: ChainFault::Sequence {
                            got: wrong as u64 + 1
                        }
                    }
                );
            }
        }
        assert_eq!(chain.head(), head);
        assert_eq!(chain.iter().len(), position);
        chain.push(transition.clone()).unwrap();
    }
    assert!(chain.iter().eq(&transitions));
}

#[test]
fn every_flipped_bit_of_a_stored_transition_is_refused_and_the_place_named() {
    let signer = signer();
    let transitions = transitions(&signer);
    // Each bit of the third of five; signatures are slow, so one place stands for all.
    let bytes = transitions[2].encode();
    let mut read = 0;
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(changed) = SignedTransition::decode(&flipped) else {
            continue;
        };
        read += 1;
        assert_eq!(changed.encode(), flipped, "bit {bit}");
        let mut history = transitions.clone();
        history[2] = changed;
        assert_eq!(
            fault(history, &signer),
            (3, ChainFault::Signature),
            "bit {bit}"
        );
    }
    assert!(read > 2000, "only {read} reached the signature");
}

#[test]
fn a_flipped_bit_in_any_transition_names_that_transition() {
    let signer = signer();
    for position in 0..5 {
        let mut history = transitions(&signer);
        history[position].transition.pki.0[0] ^= 1;
        assert_eq!(
            fault(history, &signer),
            (position as u64 + 1, ChainFault::Signature)
        );
    }
}

#[test]
fn no_truncation_of_a_stored_transition_is_read() {
    let bytes = transitions(&signer())[0].encode();
    for len in 0..bytes.len() {
        assert!(
            matches!(
                SignedTransition::decode(&bytes[..len]),
                Err(TransitionError::Truncated { .. })
            ),
            "{len} bytes"
        );
    }
    assert_eq!(
        SignedTransition::decode(&[&bytes[..], &[0]].concat()),
        Err(TransitionError::TrailingBytes { extra: 1 })
    );
}

#[test]
fn a_dropped_transition_is_missed() {
    let signer = signer();
    for dropped in 0..4 {
        let mut history = transitions(&signer);
        history.remove(dropped);
        let seq = dropped as u64 + 1;
        assert_eq!(
            fault(history, &signer),
            (seq, ChainFault::Sequence { got: seq + 1 })
        );
    }
}

#[test]
fn a_duplicated_transition_is_refused() {
    let signer = signer();
    for twice in 0..5 {
        let mut history = transitions(&signer);
        history.insert(twice, history[twice].clone());
        let seq = twice as u64 + 1;
        assert_eq!(
            fault(history, &signer),
            (seq + 1, ChainFault::Sequence { got: seq })
        );
    }
}

#[test]
fn reordered_transitions_are_refused() {
    let signer = signer();
    for first in 0..5 {
        for second in first + 1..5 {
            let mut history = transitions(&signer);
            history.swap(first, second);
            assert_eq!(
                fault(history, &signer),
                (
                    first as u64 + 1,
                    ChainFault::Sequence {
                        got: second as u64 + 1
                    }
                )
            );
        }
    }
}

#[test]
fn a_forked_history_is_refused_where_the_fork_is_joined() {
    let signer = signer();
    let mut history = transitions(&signer);
    let first = history[0].transition.head();
    let fork = signer.sign(next(first, Kind::Manifest, 22)).unwrap();
    // The fork by itself is a history; what followed the other branch does not follow it.
    Chain::verify(vec![history[0].clone(), fork.clone()], signer.public_key()).unwrap();
    let (got, want) = (history[1].transition.hash(), fork.transition.hash());
    history[1] = fork;
    assert_eq!(
        fault(history, &signer),
        (3, ChainFault::Previous { got, want })
    );
}

#[test]
fn a_first_transition_that_follows_another_is_refused() {
    let signer = signer();
    let got = Digest([7; 32]);
    let first = next(Head { seq: 0, hash: got }, Kind::Manifest, 1);
    let want = START.hash;
    assert_eq!(
        fault([signer.sign(first).unwrap()], &signer),
        (1, ChainFault::Previous { got, want })
    );
}

#[test]
fn a_history_signed_with_another_key_is_refused_at_once() {
    let other = signer();
    assert_eq!(
        fault(transitions(&signer()), &other),
        (1, ChainFault::Signature)
    );
}

#[test]
fn a_signature_of_one_transition_is_not_good_for_another() {
    let signer = signer();
    let mut history = transitions(&signer);
    history[4].signature = history[3].signature.clone();
    let key = signer.public_key();
    assert_eq!(key.verify(&history[3]), Ok(()));
    assert_eq!(key.verify(&history[4]), Err(WrongSignature { seq: 5 }));
    assert_eq!(fault(history, &signer), (5, ChainFault::Signature));
}

#[test]
fn what_sets_no_manifest_keeps_it_and_never_comes_first() {
    let signer = signer();
    for kind in [Kind::Recovery, Kind::Issue, Kind::Withdraw] {
        let first = signer.sign(next(START, kind, 1)).unwrap();
        let want = ChainFault::FirstIsNoManifest { kind };
        assert_eq!(fault([first], &signer), (1, want));
        let mut history = transitions(&signer);
        let head = history[4].transition.head();
        history.push(signer.sign(next(head, kind, 6)).unwrap());
        let want = ChainFault::ChangesManifest {
            kind,
            got: Digest([6; 32]),
            want: Digest([5; 32]),
        };
        assert_eq!(fault(history, &signer), (6, want));
    }
}

#[test]
fn a_chain_extends_what_is_remembered_of_it_and_no_fork() {
    let signer = signer();
    let history = transitions(&signer);
    let chain = Chain::verify(history.clone(), signer.public_key()).unwrap();
    assert_eq!(chain.check_extends(&START), Ok(()));
    for signed in &history {
        assert_eq!(chain.check_extends(&signed.transition.head()), Ok(()));
    }

    let other = Digest([7; 32]);
    for (signed, seq) in history.iter().zip(1..) {
        let forked = Head { seq, hash: other };
        assert_eq!(
            chain.check_extends(&forked),
            Err(Rollback::Fork {
                seq,
                offered: signed.transition.hash(),
                remembered: other
            })
        );
    }
    for seq in [6, u64::MAX] {
        let remembered = Head { seq, hash: other };
        assert_eq!(
            chain.check_extends(&remembered),
            Err(Rollback::Older {
                offered: chain.head(),
                remembered
            })
        );
    }
}

#[test]
fn a_transition_that_could_not_be_read_again_is_not_signed() {
    let mut transition = next(START, Kind::Manifest, 1);
    transition.authorisations = vec![transition.authorisations[0].clone(); MAX_AUTHORISATIONS];
    signer().sign(transition.clone()).unwrap();
    transition.authorisations[1].key = vec![0; 257];
    assert_eq!(
        signer().sign(transition.clone()).unwrap_err(),
        SignError::Transition(TransitionError::TooLong {
            part: TransitionPart::Key { position: 2 },
            got: 257,
            max: 256
        })
    );
}

#[test]
fn the_largest_transition_is_read_again() {
    let mut transition = next(START, Kind::Manifest, 1);
    transition.authorisations = vec![
        Authorisation {
            key: vec![1; 256],
            signature: vec![2; 256],
        };
        MAX_AUTHORISATIONS
    ];
    let signed = signer().sign(transition).unwrap();
    assert_eq!(SignedTransition::decode(&signed.encode()), Ok(signed));
}

#[test]
fn the_public_key_survives_its_encoding_and_other_keys_are_refused() {
    let signer = signer();
    let key = signer.public_key();
    assert_eq!(TransitionKey::from_spki(key.spki_der()).as_ref(), Ok(key));
    let mut off_curve = key.spki_der().to_vec();
    *off_curve.last_mut().unwrap() ^= 1;
    for der in [&[][..], &key.spki_der()[..119], &off_curve] {
        assert_eq!(TransitionKey::from_spki(der), Err(TransitionKeyError));
    }
    for der in [&[][..], &pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING)] {
        assert_eq!(
            TransitionSigner::from_pkcs8(der).unwrap_err(),
            SigningKeyError
        );
    }
}

/// One transition and its signature, made with Python's hashlib and cryptography package from the
/// description of the format: what is stored today must be accepted by every later version.
#[test]
fn a_history_of_an_independent_implementation_is_accepted() {
    let key = hex::decode(
        "3076301006072a8648ce3d020106052b8104002203620004d518d1c29b395ba2fea5196d170f2679\
         553a440323eefd55563948c68806274bfbd66ebdfc60dc6235e9b996a9ce6cb77501e4699d9c2c23\
         b3f21cdd2f71daae8de6b002687312987b228da3d245c51504bbba3184729afe2dd5754584bb2af0",
    )
    .unwrap();
    let signed = hex::decode(
        "00000000000000af7365616c77697265207472616e736974696f6e20763100000000000000010000\
         00000000000000000000000000000000000000000000000000000000000001020202020202020202\
         02020202020202020202020202020202020202020202020303030303030303030303030303030303\
         03030303030303030303030303030304040404040404040404040404040404040404040404040404\
         04040404040404000000006b49d200000000000000000000000000000000673065023037fa7e5a45\
         180ced3ea29484f5fc01ce4eea17e96080f86d1aa0a43afad044adcd477d51b2fd575fd5a4899336\
         c593080231009ee386d8d29d8c63296f496c990eb83eff19830c97e687a6aeb644e37b92a39de406\
         5999befb28705b201ff8cc6bca01",
    )
    .unwrap();
    let key = TransitionKey::from_spki(&key).unwrap();
    let signed = SignedTransition::decode(&signed).unwrap();
    assert_eq!(signed.transition.time, 1_800_000_000);
    let chain = Chain::verify(vec![signed], &key).unwrap();
    assert_eq!(
        chain.head().hash.to_string(),
        "a46ea16f20798178c16c8f5bc2d8b7fd51fe5df7ac8ec0b2b9429c2d455ada14"
    );
}

#[test]
fn debug_output_has_no_secret() {
    assert_eq!(format!("{:?}", signer()), "TransitionSigner(..)");
}
