//! Owners' keys as their owners give them, `OwnerKey::from_pem`, `workload_owner`, `rsa_public_key`:
//! any bytes, as PEM or as the DER in it. A key has one name, whichever way it came.
#![no_main]

use attestation::Digest;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
};
use fuzz::{Outcome, start};
use history::OwnerKey;
use libfuzzer_sys::fuzz_target;
use manifest::{rsa_public_key, workload_owner};
use pem_rfc7468::LineEnding;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for algorithm in [
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        &ECDSA_P384_SHA384_ASN1_SIGNING,
    ] {
        let key = EcdsaKeyPair::generate(algorithm).expect("a key");
        let pkcs8 = key.to_pkcs8v1().expect("a key, DER");
        let spki: PublicKeyX509Der<'_> = key.public_key().as_der().expect("a key, DER");
        seeds.push(pem(pkcs8.as_ref()).into_bytes());
        seeds.push(pkcs8.as_ref().to_vec());
        seeds.push(spki.as_ref().to_vec());
    }
    let key = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("a key");
    let spki: PublicKeyX509Der<'_> = key.public_key().as_der().expect("a key, DER");
    seeds.push(key.public_key().as_ref().to_vec());
    seeds.push(spki.as_ref().to_vec());
    seeds
}

fn attempt(bytes: &[u8]) -> Outcome {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if text.contains("-----") => text.to_owned(),
        _ => pem(bytes),
    };
    let owner = OwnerKey::from_pem(&text);
    match &owner {
        Ok(key) => {
            let spki = key.public_key_der();
            assert_eq!(key.digest(), Digest::of(&spki));
            assert_eq!(workload_owner(&spki), Ok(key.digest()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let public = workload_owner(bytes);
    let rsa = rsa_public_key(bytes);
    if let Ok(pkcs1) = &rsa {
        assert_eq!(rsa_public_key(pkcs1).as_ref(), Ok(pkcs1));
    }
    Outcome::accepted_if(owner.is_ok() || public.is_ok() || rsa.is_ok())
}

fn pem(der: &[u8]) -> String {
    pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, der).expect("PEM")
}
