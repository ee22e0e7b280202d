//! The messages of the attested exchange, `wire::{Challenge, Proof, Verdict}`: any bytes. What is read
//! is read again from what it is written as, and is within its bounds.
#![no_main]

use attestation::Digest;
use attested_tls::CorrelationId;
use attested_tls::wire::{Challenge, MAX_CERTIFIED_KEYS, Proof, Verdict};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let challenge = |manifest, keys| Challenge {
        nonce: [1; 32],
        wants_evidence: true,
        manifest,
        certified_keys: vec![Digest([3; 32]); keys],
    };
    let proof = |evidence| Proof { evidence };
    let refused = Verdict::Refused {
        code: Verdict::ATTESTATION_REFUSED.to_owned(),
        id: CorrelationId([4; 8]),
    };
    vec![
        challenge(None, 0).encode(),
        challenge(Some(Digest([2; 32])), 5).encode(),
        proof(None).encode(),
        proof(Some(vec![5; 200])).encode(),
        Verdict::Accepted.encode(),
        refused.encode(),
    ]
}

fn attempt(bytes: &[u8]) -> Outcome {
    let challenge = Challenge::decode(bytes);
    if let Ok(challenge) = &challenge {
        assert!(challenge.certified_keys.len() <= MAX_CERTIFIED_KEYS);
        let encoded = challenge.encode();
        assert!(encoded.len() <= Challenge::MAX_BYTES);
        assert_eq!(Challenge::decode(&encoded).as_ref(), Ok(challenge));
    }
    let proof = Proof::decode(bytes);
    if let Ok(proof) = &proof {
        let encoded = proof.clone().encode();
        assert!(encoded.len() <= Proof::MAX_BYTES);
        assert_eq!(Proof::decode(&encoded).as_ref(), Ok(proof));
    }
    let verdict = Verdict::decode(bytes);
    if let Ok(verdict) = &verdict {
        if let Verdict::Refused { code, .. } = verdict {
            let is_plain = |it: char| it.is_ascii_lowercase() || it == '-';
            assert!(code.chars().all(is_plain), "a code ends up in logs");
        }
        let encoded = verdict.encode();
        assert!(encoded.len() <= Verdict::MAX_BYTES);
        assert_eq!(Verdict::decode(&encoded).as_ref(), Ok(verdict));
    }
    Outcome::accepted_if(challenge.is_ok() || proof.is_ok() || verdict.is_ok())
}
