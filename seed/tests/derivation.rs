//! What a seed gives never changes, and nothing of it is shown.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use rcgen::PublicKeyData;
use rustls_pki_types::PrivatePkcs8KeyDer;
use seed::{DerivedKey, Seed, SeedError};

/// The seed of the known answers: the bytes 0 to 63.
fn known() -> Seed {
    Seed::from_bytes(&(0..64).collect::<Vec<u8>>()).unwrap()
}

// The known answers were computed with Python's hmac and hashlib, and the key pairs with its
// cryptography package (OpenSSL).

#[test]
fn the_root_ca_key_is_the_known_one() {
    let key = known().root_ca_key().unwrap();
    assert_eq!(
        hex::encode(key.public_key_der()),
        "3076301006072a8648ce3d020106052b81040022036200042d584c9021f6687f95718912dfd3cf3f9320af53e7\
         f2839fdb343b02e0f786e676ab4952f5d15ade873392056ff600022f5f0484ae302c0646335b6bdbffe0f9a732\
         d3a900742efb04df7c319f3149371a1c0573ddbed196577fd93aaba9cbb6"
    );
    assert_eq!(
        hex::encode(key.pkcs8_der()),
        "3081b6020100301006072a8648ce3d020106052b8104002204819e30819b0201010430d566483729d8a9cc95ea\
         17b7f067be93be8ca3f3aa5692f9fb09f76c8909f1310a90a18e00b77df6289e0c4243c06186a1640362000\
         42d584c9021f6687f95718912dfd3cf3f9320af53e7f2839fdb343b02e0f786e676ab4952f5d15ade873392056\
         ff600022f5f0484ae302c0646335b6bdbffe0f9a732d3a900742efb04df7c319f3149371a1c0573ddbed196577\
         fd93aaba9cbb6"
    );
}

#[test]
fn the_transition_key_is_the_known_one() {
    let key = known().transition_key().unwrap();
    assert_eq!(
        hex::encode(key.public_key_der()),
        "3076301006072a8648ce3d020106052b8104002203620004021d669d1c3e82942d99def3c434a43372a585a645\
         1fead5855603f1761cf608b19173c1389454f8dd358f49c2d6362f629a8d0ec7736cec6924f700f191788394\
         0502792d1f92d648222595d7f74df63e4e64e0d86206caf4fad361e9728b16"
    );
}

#[test]
fn workload_secrets_are_the_known_ones() {
    for (id, want) in [
        (
            "",
            "d22c6836deb8a26ca6250318cc8f3ca8146fd94250231d22cc59e9f4c16bd0bd\
             4cda390a8f754774483af1a3b078af3ab4486e8a01c0dc7540aca0d33e6e4a1e",
        ),
        (
            "web",
            "469283384641e3cd65991da1c6250742f13c2ecd2ef6eef6989a4c0c9114e3c0\
             bc50e96cd2f7c9b58e689f4e5e126ae984ddf8ccd8672a79763860afd890cd4d",
        ),
        (
            "wéb",
            "82a721ce657a8cfaef5543f585585d955315f0d607ebccb162de2df5374c8b8b\
             8c691938d217c62ddd1a9bbafc9b6255ec7339de9a732b7ea78b30ca1fd7ae3c",
        ),
    ] {
        assert_eq!(hex::encode(known().workload_secret(id)), want, "{id}");
    }
}

#[test]
fn the_check_value_is_the_known_one() {
    assert_eq!(
        known().check_value().to_string(),
        "4729f75403565034d6cf20d15c6efbf737c694f84f8fe39ae15f78c502c48502"
    );
}

#[test]
fn everything_differs_between_seeds_and_purposes() {
    let mut values = Vec::new();
    for seed in [Seed::generate().unwrap(), Seed::generate().unwrap()] {
        values.push(seed.expose_bytes().to_vec());
        values.push(seed.root_ca_key().unwrap().public_key_der().to_vec());
        values.push(seed.transition_key().unwrap().public_key_der().to_vec());
        values.push(seed.workload_secret("a").to_vec());
        values.push(seed.workload_secret("b").to_vec());
        values.push(seed.check_value().0.to_vec());
    }
    let count = values.len();
    values.sort();
    values.dedup();
    assert_eq!(values.len(), count);
}

#[test]
fn a_seed_survives_a_handover() {
    let seed = Seed::generate().unwrap();
    let copy = Seed::from_bytes(seed.expose_bytes()).unwrap();
    assert_eq!(copy.check_value(), seed.check_value());
    for len in [0, 63, 65] {
        assert_eq!(
            Seed::from_bytes(&vec![0; len]).unwrap_err(),
            SeedError::Length { got: len }
        );
    }
}

#[test]
fn rcgen_reads_the_keys_and_they_have_the_public_key_that_they_say() {
    let seed = Seed::generate().unwrap();
    for key in [seed.root_ca_key().unwrap(), seed.transition_key().unwrap()] {
        let (label, der) = pem_rfc7468::decode_vec(key.pkcs8_pem().as_bytes())
            .map(|(label, der)| (label.to_owned(), der))
            .unwrap();
        assert_eq!(label, "PRIVATE KEY");
        assert_eq!(der, key.pkcs8_der());
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(der),
            &rcgen::PKCS_ECDSA_P384_SHA384,
        )
        .unwrap();
        assert_eq!(pair.subject_public_key_info(), key.public_key_der());
    }
}

#[test]
fn debug_output_has_no_secret() {
    let key: DerivedKey = known().root_ca_key().unwrap();
    assert_eq!(format!("{:?} {key:?}", known()), "Seed(..) DerivedKey(..)");
}
