//! An owner's private key opens that owner's share, and nothing else passes for it.

use attestation::Digest;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey};
use seed::{DecryptError, Gathering, OwnerKeyError, Seed, ShareError, SharesDocument};

use crate::owners::{Owner, owners};
use crate::{share, split_among};

#[test]
fn a_key_that_is_no_owners_is_named() {
    let (_, document) = split_among(2, 2);
    let stranger = &owners(3)[2];
    assert_eq!(
        document.decrypt(&stranger.pkcs8).unwrap_err(),
        DecryptError::NotAnOwner {
            key: Digest::of(&stranger.public)
        }
    );
}

#[test]
fn swapped_ciphertexts_are_refused() {
    let (_, document) = split_among(2, 2);
    let mut json = json(&document);
    let first = json["SeedShares"][0]["EncryptedShare"].take();
    let second = json["SeedShares"][1]["EncryptedShare"].take();
    json["SeedShares"][0]["EncryptedShare"] = second;
    json["SeedShares"][1]["EncryptedShare"] = first;
    let swapped = parse(&json);
    for (index, owner) in (1..).zip(owners(2)) {
        assert_eq!(
            swapped.decrypt(&owner.pkcs8).unwrap_err(),
            DecryptError::Ciphertext { index }
        );
    }
}

#[test]
fn swapped_entries_are_refused() {
    let (_, document) = split_among(2, 2);
    let mut json = json(&document);
    let shares = json["SeedShares"].as_array_mut().unwrap();
    shares.swap(0, 1);
    shares[0]["Index"] = 1.into();
    shares[1]["Index"] = 2.into();
    let swapped = parse(&json);
    assert_eq!(
        swapped.decrypt(&owners(1)[0].pkcs8).unwrap_err(),
        DecryptError::Swapped { index: 2, of: 1 }
    );
    // Nor does the share of the true document pass for the other.
    assert_eq!(
        Gathering::new(swapped)
            .add(share(&document, 1))
            .unwrap_err(),
        ShareError::Swapped { index: 1, of: 2 }
    );
}

#[test]
fn what_else_is_encrypted_to_an_owner_is_refused() {
    let (_, document) = split_among(2, 2);
    let (_, other) = split_among(2, 2);
    let encrypted = |plaintext: &[u8]| {
        let mut json = json(&document);
        json["SeedShares"][0]["EncryptedShare"] =
            hex::encode(encrypt(owners(1)[0], plaintext)).into();
        parse(&json).decrypt(&owners(1)[0].pkcs8).unwrap_err()
    };
    assert!(matches!(
        encrypted(b"nothing"),
        DecryptError::Encoding { index: 1, .. }
    ));
    assert_eq!(
        encrypted(&share(&document, 2).encode()),
        DecryptError::Swapped { index: 1, of: 2 }
    );
    assert!(matches!(
        encrypted(&share(&other, 1).encode()),
        DecryptError::Share(ShareError::Set { index: 1, .. })
    ));
    let mut wrong = share(&document, 1).encode();
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(
        encrypted(&wrong),
        DecryptError::Share(ShareError::Value { index: 1 })
    );
}

#[test]
fn texts_that_are_no_private_keys_are_told_apart() {
    let (_, document) = split_among(1, 1);
    let refused = |pem: &str| match document.decrypt(pem).unwrap_err() {
        DecryptError::Key(error) => error,
        other => panic!("{other}"),
    };
    let pkcs8 = &owners(1)[0].pkcs8;
    assert!(matches!(refused(""), OwnerKeyError::NotPem(_)));
    assert_eq!(
        refused(&pkcs8.replace("PRIVATE", "ENCRYPTED PRIVATE")),
        OwnerKeyError::Encrypted
    );
    assert_eq!(
        refused(&pkcs8.replace("PRIVATE KEY", "CERTIFICATE")),
        OwnerKeyError::Label
    );
    // PKCS #8 under the label of PKCS #1.
    assert_eq!(
        refused(&pkcs8.replace("PRIVATE", "RSA PRIVATE")),
        OwnerKeyError::NotRsa
    );
    let elliptic = Seed::generate().unwrap().root_ca_key().unwrap();
    assert_eq!(refused(&elliptic.pkcs8_pem()), OwnerKeyError::NotRsa);
    let long = " ".repeat(64 * 1024 + 1);
    assert_eq!(refused(&long), OwnerKeyError::TooLong { got: long.len() });
}

fn json(document: &SharesDocument) -> serde_json::Value {
    serde_json::from_str(&document.to_json()).unwrap()
}

fn parse(json: &serde_json::Value) -> SharesDocument {
    SharesDocument::parse(json.to_string().as_bytes()).unwrap()
}

fn encrypt(owner: &Owner, plaintext: &[u8]) -> Vec<u8> {
    let mut ciphertext = vec![0; 256];
    OaepPublicEncryptingKey::new(owner.encrypting_key())
        .unwrap()
        .encrypt(
            &OAEP_SHA256_MGF1SHA256,
            plaintext,
            &mut ciphertext,
            Some(b"seedshare"),
        )
        .unwrap();
    ciphertext
}
