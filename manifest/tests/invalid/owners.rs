use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use serde_json::json;

use crate::check;
use crate::common::{OWNER, RSA};

#[test]
fn owners_and_quorums() {
    const RSA_WANTED: &str =
        "an RSA public key of 2048 to 8192 bits, PKCS#1 DER in hexadecimal digits";
    let short = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let spki = AsDer::as_der(short.public_key()).unwrap();
    let [key, _] = &*RSA;
    let mut trailing = key.clone();
    trailing.push_str("00");
    check(&[
        (
            "/WorkloadOwnerKeyDigests",
            json!([OWNER, OWNER.to_uppercase(), "aa"]),
            &[
                "WorkloadOwnerKeyDigests[1]: got the same as WorkloadOwnerKeyDigests[0], want each \
                 one once",
                "WorkloadOwnerKeyDigests[2]: invalid length: 2 (expected 64)",
            ],
        ),
        (
            "/WorkloadOwnerKeyDigests",
            json!([]),
            &["UpdateQuorum: got 2, want 0 or no such field: no keys are listed"],
        ),
        (
            "/UpdateQuorum",
            json!(3),
            &["UpdateQuorum: got 3, want 1 to 2, the number of keys"],
        ),
        (
            "/UpdateQuorum",
            json!(0),
            &["UpdateQuorum: got 0, want 1 to 2, the number of keys"],
        ),
        (
            "/UpdateQuorum",
            json!("2"),
            &["UpdateQuorum: got \"2\", want a whole number from 0 to 4294967295"],
        ),
        (
            "/SeedshareQuorum",
            json!(3),
            &["SeedshareQuorum: got 3, want 1 to 2, the number of keys"],
        ),
        (
            "/SeedshareOwnerPubKeys",
            json!([key, key]),
            &[
                "SeedshareOwnerPubKeys[1]: got the same as SeedshareOwnerPubKeys[0], want each one once",
            ],
        ),
        (
            "/SeedshareOwnerPubKeys",
            json!(["00ff", "0", hex::encode(spki.as_ref())]),
            &[
                &format!(
                    "SeedshareOwnerPubKeys[0]: got bytes that are no RSA public key, want {RSA_WANTED}"
                ),
                "SeedshareOwnerPubKeys[1]: got \"0\", want an even number of hexadecimal digits",
                &format!(
                    "SeedshareOwnerPubKeys[2]: got an RSA public key in another encoding \
                     (SubjectPublicKeyInfo?), want {RSA_WANTED}"
                ),
            ],
        ),
        (
            "/SeedshareOwnerPubKeys",
            json!([key, trailing]),
            &[&format!(
                "SeedshareOwnerPubKeys[1]: got bytes that are no RSA public key, want {RSA_WANTED}"
            )],
        ),
        (
            "/SeedshareOwnerPubKeys",
            json!([key, RSA_1024]),
            &[&format!(
                "SeedshareOwnerPubKeys[1]: got an RSA key of 1024 bits, want {RSA_WANTED}"
            )],
        ),
    ]);
}

#[test]
fn without_a_seedshare_owner_nothing_would_recover_the_seed() {
    check(&[
        (
            "/SeedshareOwnerPubKeys",
            json!([]),
            &["SeedshareOwnerPubKeys: got a list of 0, want 1 to 16 keys"],
        ),
        (
            "/SeedshareOwnerPubKeys",
            json!(null),
            &["SeedshareOwnerPubKeys: field cannot be empty"],
        ),
    ]);
}

#[test]
fn seventeen_seedshare_owners_are_too_many() {
    check(&[(
        "/SeedshareOwnerPubKeys",
        json!(vec![&RSA[0]; 17]),
        &["SeedshareOwnerPubKeys: got a list of 17, want 1 to 16 keys"],
    )]);
}

#[test]
fn rotation_and_lifetime() {
    const WANTED: &str = "a whole number and s, m, h or d, from 10s to 30d";
    check(&[
        (
            "/Rotation",
            json!("strict"),
            &["Rotation: got \"strict\", want an object"],
        ),
        (
            "/Rotation",
            json!({ "Mode": "Strict", "DeadlineSeconds": 0 }),
            &[
                "Rotation.Mode: got \"Strict\", want graceful or strict",
                "Rotation.DeadlineSeconds: got 0, want a whole number from 1 to 86400",
            ],
        ),
        (
            "/Rotation/DeadlineSeconds",
            json!(86_401),
            &["Rotation.DeadlineSeconds: got 86401, want a whole number from 1 to 86400"],
        ),
        (
            "/Rotation/Deadline",
            json!(1),
            &["Rotation: got unknown field \"Deadline\", want only Mode, DeadlineSeconds"],
        ),
        (
            "/CertificateLifetime",
            json!("9s"),
            &[&format!("CertificateLifetime: got \"9s\", want {WANTED}")],
        ),
        (
            "/CertificateLifetime",
            json!("31d"),
            &[&format!("CertificateLifetime: got \"31d\", want {WANTED}")],
        ),
        (
            "/CertificateLifetime",
            json!(24),
            &["CertificateLifetime: got 24, want a string"],
        ),
    ]);
}

/// PKCS#1 DER of a key that is too short; the library makes none.
const RSA_1024: &str = "\
    308189028181009ff28327b4317ac0d16c14c403a78784f0fce97984b2a68173a183c2100a941cfa\
    690be55bbcb927f513a127b15862f6469d7fca1547dbcb2c0e7d7c0a8e122766ae6a11a8e1d9332f\
    e4a059a3251ed66d0b79375b7cba888c45fb30f42e76891cfe54b190a9bdf37f1667d2741510cfc4\
    55c9a1408e026e5094bbb6c0cb56e50203010001";
