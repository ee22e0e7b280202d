//! A history whose key never changes, so that what was found once is found again.

use attestation::Digest;
use history::{Authorisation, Head, Kind, SignedTransition, Transition, TransitionSigner};
use seed::Seed;

/// The seed that the history's key is derived from.
pub fn seed() -> Seed {
    Seed::from_bytes(&[7; Seed::LEN]).expect("a seed has that length")
}

/// Who signs the history.
pub fn signer() -> TransitionSigner {
    let key = seed().transition_key().expect("a seed gives a key");
    TransitionSigner::from_pkcs8(key.pkcs8_der()).expect("a derived key is one of P-384")
}

/// One transition of each kind, in order.
pub fn transitions() -> Vec<SignedTransition> {
    let mut transitions = vec![after(None, Kind::Manifest, 1)];
    for (kind, manifest) in [
        (Kind::Manifest, 2),
        (Kind::Issue, 2),
        (Kind::Withdraw, 2),
        (Kind::Recovery, 2),
    ] {
        let last = transitions.last().map(|it| it.transition.head());
        transitions.push(after(last, kind, manifest));
    }
    transitions
}

/// What follows `last`, signed.
pub fn after(last: Option<Head>, kind: Kind, manifest: u8) -> SignedTransition {
    let authorisation = Authorisation {
        key: vec![0x30; 91],
        signature: vec![0x31; 70],
    };
    let is_update = kind == Kind::Manifest && last.is_some();
    let transition = Transition {
        seq: last.map_or(1, |it| it.seq + 1),
        previous: last.map_or(Digest([0; 32]), |it| it.hash),
        kind,
        manifest: Digest([manifest; 32]),
        pki: Digest([0x50; 32]),
        seed_shares: Digest([0x51; 32]),
        time: 1_767_225_600,
        authorisations: if is_update {
            vec![authorisation; 2]
        } else {
            vec![]
        },
    };
    signer()
        .sign(transition)
        .expect("a transition can be signed")
}
