//! The share document: read strictly, always written alike, and of use to `openssl` users.

use std::path::Path;
use std::process::Command;

use attestation::Digest;
use seed::{DocumentError, DocumentPart, MAX_DOCUMENT, Seed, SharesDocument, split};
use serde_json::{Value, json};

use crate::owners::owners;

fn document() -> SharesDocument {
    let keys: Vec<_> = owners(3).iter().map(|owner| owner.public.clone()).collect();
    split(&Seed::generate().unwrap(), &keys, 2).unwrap()
}

#[test]
fn the_names_are_those_of_the_format() {
    let json: Value = serde_json::from_str(&document().to_json()).unwrap();
    let names = |value: &Value| -> Vec<String> {
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(
        names(&json),
        [
            "CheckValue",
            "SeedShares",
            "SetID",
            "Threshold",
            "TransitionHash"
        ]
    );
    assert_eq!(
        names(&json["SeedShares"][0]),
        ["Commitment", "EncryptedShare", "Index", "PublicKey"]
    );
    assert_eq!(json["Threshold"], 2);
    assert_eq!(json["TransitionHash"], "");
    assert_eq!(json["SetID"].as_str().unwrap().len(), 32);
    assert_eq!(
        json["SeedShares"][1]["PublicKey"],
        hex::encode(&owners(2)[1].public)
    );
    assert_eq!(json["SeedShares"][1]["Index"], 2);
}

#[test]
fn a_document_survives_json() {
    let document = document();
    let read = SharesDocument::parse(document.to_json().as_bytes()).unwrap();
    assert_eq!(read, document);
    assert_eq!(read.to_json(), document.to_json());
    assert_eq!(read.hash(), Digest::of(document.to_json().as_bytes()));
    assert_eq!(read.threshold(), 2);
    assert!(
        read.owners()
            .eq(owners(3).iter().map(|owner| &owner.public[..]))
    );
}

#[test]
fn the_hash_leaves_the_transition_out_and_the_document_does_not() {
    let document = document();
    let transition = Digest::of(b"transition");
    let named = document.clone().with_transition(transition);
    assert_eq!(named.hash(), document.hash());
    let read = SharesDocument::parse(named.to_json().as_bytes()).unwrap();
    assert_eq!(read.transition(), Some(transition));
    assert_eq!(read, named);
    assert_ne!(read, document);
}

#[test]
fn every_changed_byte_is_refused_or_changes_the_hash() {
    let document = document();
    let text = document.to_json();
    let mut refused = 0;
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        match SharesDocument::parse(&bytes) {
            // White space became other white space, or a number's sign: nothing has changed.
            Ok(read) if read == document => {}
            Ok(read) => assert_ne!(read.hash(), document.hash(), "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}

#[test]
fn no_truncation_is_a_document() {
    let text = document().to_json();
    for len in 0..text.len() - 1 {
        assert!(
            matches!(
                SharesDocument::parse(&text.as_bytes()[..len]),
                Err(DocumentError::Json(_))
            ),
            "{len} bytes"
        );
    }
}

#[test]
fn what_is_wrong_is_said_and_where() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_str(&document().to_json()).unwrap();
        change(&mut json);
        SharesDocument::parse(json.to_string().as_bytes()).unwrap_err()
    };
    assert!(matches!(
        refused(&|json| json["Extra"] = json!(1)),
        DocumentError::Json(_)
    ));
    assert!(matches!(
        refused(&|json| json["SeedShares"][0]["Extra"] = json!(1)),
        DocumentError::Json(_)
    ));
    for got in [0, 4, 255] {
        assert!(matches!(
            refused(&|json| json["Threshold"] = json!(got)),
            DocumentError::Threshold { got: value, shares: 3 } if value == got
        ));
    }
    assert!(matches!(
        refused(&|json| json["SeedShares"] = json!([])),
        DocumentError::Count { got: 0 }
    ));
    assert!(matches!(
        refused(&|json| {
            let one = json["SeedShares"][0].clone();
            json["SeedShares"] = json!(vec![one; 17]);
        }),
        DocumentError::Count { got: 17 }
    ));
    for (field, part) in [
        ("SetID", DocumentPart::SetId),
        ("CheckValue", DocumentPart::CheckValue),
        ("TransitionHash", DocumentPart::TransitionHash),
    ] {
        for bad in ["0", "xx", &"0".repeat(66)] {
            assert!(matches!(
                refused(&|json| json[field] = json!(bad)),
                DocumentError::Hex { part: got, .. } if got == part
            ));
        }
    }
    for (field, part) in [
        ("PublicKey", DocumentPart::PublicKey { index: 2 }),
        ("Commitment", DocumentPart::Commitment { index: 2 }),
        ("EncryptedShare", DocumentPart::EncryptedShare { index: 2 }),
    ] {
        assert!(matches!(
            refused(&|json| json["SeedShares"][1][field] = json!("0")),
            DocumentError::Hex { part: got, .. } if got == part
        ));
    }
    assert!(matches!(
        refused(&|json| json["SeedShares"][1]["PublicKey"] = json!("00")),
        DocumentError::Owner { index: 2, .. }
    ));
    assert!(matches!(
        refused(&|json| json["SeedShares"][1]["EncryptedShare"] = json!("00")),
        DocumentError::Ciphertext {
            index: 2,
            got: 1,
            want: 256
        }
    ));
    assert!(matches!(
        refused(&|json| json["SeedShares"][1]["Index"] = json!(3)),
        DocumentError::Index { got: 3, want: 2 }
    ));
    assert!(matches!(
        refused(&|json| json["SeedShares"].as_array_mut().unwrap().swap(0, 2)),
        DocumentError::Index { got: 3, want: 1 }
    ));
    assert!(matches!(
        refused(
            &|json| json["SeedShares"][2]["PublicKey"] = json["SeedShares"][0]["PublicKey"].clone()
        ),
        DocumentError::DuplicateOwner {
            first: 1,
            second: 3
        }
    ));
}

#[test]
fn a_document_of_any_size_is_refused_before_it_is_read() {
    let long = vec![b' '; MAX_DOCUMENT + 1];
    assert!(matches!(
        SharesDocument::parse(&long),
        Err(DocumentError::TooLong { got }) if got == MAX_DOCUMENT + 1
    ));
    // Deep nesting, and bytes that are not UTF-8.
    let nested = "[".repeat(MAX_DOCUMENT);
    for bytes in [nested.as_bytes(), b"{\"SetID\":\"\xff\"}", b"null", b""] {
        assert!(matches!(
            SharesDocument::parse(bytes),
            Err(DocumentError::Json(_))
        ));
    }
}

#[test]
fn a_document_with_the_longest_keys_is_within_the_limit() {
    // Keys of 8192 bits take minutes to make; what counts is the length of their text.
    let mut json: Value = serde_json::from_str(&document().to_json()).unwrap();
    let mut entry = json["SeedShares"][0].clone();
    entry["PublicKey"] = json!("0".repeat(2 * 1038));
    entry["EncryptedShare"] = json!("0".repeat(2 * 1024));
    json["TransitionHash"] = json!("0".repeat(64));
    json["SeedShares"] = json!(vec![entry; 16]);
    let text = serde_json::to_string_pretty(&json).unwrap();
    assert!(text.len() < MAX_DOCUMENT, "{}", text.len());
}

#[test]
fn keys_made_by_openssl_work_and_openssl_decrypts() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    // One owner with a PKCS #8 file, one with PKCS #1.
    let mut keys = Vec::new();
    for (name, option) in [("pkcs8", None), ("pkcs1", Some("-traditional"))] {
        let private = path(name);
        openssl(
            ["genrsa", "-out", &private]
                .into_iter()
                .chain(option)
                .chain(["3072"]),
        );
        let public = path("public.der");
        openssl([
            "rsa",
            "-in",
            &private,
            "-RSAPublicKey_out",
            "-outform",
            "DER",
            "-out",
            &public,
        ]);
        keys.push(std::fs::read(public).unwrap());
    }
    let read = |name: &str| std::fs::read_to_string(Path::new(&path(name))).unwrap();
    assert!(read("pkcs8").contains("BEGIN PRIVATE KEY"));
    assert!(read("pkcs1").contains("BEGIN RSA PRIVATE KEY"));

    let seed = Seed::generate().unwrap();
    let document = split(&seed, &keys, 2).unwrap();
    let mut gathering = seed::Gathering::new(document.clone());
    for (position, name) in ["pkcs8", "pkcs1"].into_iter().enumerate() {
        let share = document.decrypt(&read(name)).unwrap();
        let json: Value = serde_json::from_str(&document.to_json()).unwrap();
        let ciphertext = json["SeedShares"][position]["EncryptedShare"]
            .as_str()
            .unwrap();
        std::fs::write(path("ciphertext"), hex::decode(ciphertext).unwrap()).unwrap();
        openssl([
            "pkeyutl",
            "-decrypt",
            "-inkey",
            &path(name),
            "-in",
            &path("ciphertext"),
            "-out",
            &path("plaintext"),
            "-pkeyopt",
            "rsa_padding_mode:oaep",
            "-pkeyopt",
            "rsa_oaep_md:sha256",
            "-pkeyopt",
            "rsa_mgf1_md:sha256",
            "-pkeyopt",
            &format!("rsa_oaep_label:{}", hex::encode("seedshare")),
        ]);
        assert_eq!(std::fs::read(path("plaintext")).unwrap(), *share.encode());
        gathering.add(share).unwrap();
    }
    assert_eq!(
        gathering.finish().unwrap().expose_bytes(),
        seed.expose_bytes()
    );
}

fn openssl<'a>(arguments: impl IntoIterator<Item = &'a str>) {
    let output = Command::new("openssl")
        .args(arguments)
        .output()
        .expect("openssl is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
