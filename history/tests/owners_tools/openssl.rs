use std::fs;

use attestation::Digest;
use history::OwnerKey;

use crate::directory::Directory;
use crate::{assert_authorises, skip, statement};

const CURVES: [&str; 2] = ["prime256v1", "secp384r1"];
const HASHES: [&str; 2] = ["-sha256", "-sha384"];

/// A directory with `key.pem` (PKCS #8) and its `public.der`, or none without `openssl`.
fn with_key(curve: &str) -> Option<Directory> {
    if !skip::is_installed("openssl") {
        skip::report("openssl is not installed");
        return None;
    }
    let directory = Directory::new();
    let curve = format!("ec_paramgen_curve:{curve}");
    directory.run(
        "openssl",
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            &curve,
            "-out",
            "key.pem",
        ],
    );
    directory.run(
        "openssl",
        &[
            "pkey",
            "-in",
            "key.pem",
            "-pubout",
            "-outform",
            "DER",
            "-out",
            "public.der",
        ],
    );
    Some(directory)
}

#[test]
fn signatures_of_openssl_are_accepted() {
    for curve in CURVES {
        for hash in HASHES {
            let Some(directory) = with_key(curve) else {
                return;
            };
            directory.run(
                "openssl",
                &[
                    "dgst",
                    hash,
                    "-sign",
                    "key.pem",
                    "-out",
                    "signature",
                    "statement",
                ],
            );
            assert_authorises(directory.read("public.der"), directory.read("signature"));
        }
    }
}

#[test]
fn openssl_accepts_the_signatures_of_owner_keys() {
    for (curve, hash) in CURVES.into_iter().zip(HASHES) {
        let Some(directory) = with_key(curve) else {
            return;
        };
        let key = OwnerKey::from_pem(&directory.text("key.pem")).unwrap();
        let authorisation = key.sign(&statement()).unwrap();
        fs::write(directory.path("signature"), authorisation.signature).unwrap();
        directory.run(
            "openssl",
            &[
                "dgst",
                hash,
                "-prverify",
                "key.pem",
                "-signature",
                "signature",
                "statement",
            ],
        );
    }
}

#[test]
fn every_form_of_a_private_key_is_read_and_has_the_digest_of_its_public_key() {
    for curve in CURVES {
        let Some(directory) = with_key(curve) else {
            return;
        };
        directory.run("openssl", &["ec", "-in", "key.pem", "-out", "sec1.pem"]);
        directory.run(
            "openssl",
            &[
                "ec",
                "-in",
                "key.pem",
                "-conv_form",
                "compressed",
                "-out",
                "compressed.pem",
            ],
        );
        directory.run(
            "openssl",
            &[
                "ec",
                "-in",
                "key.pem",
                "-no_public",
                "-out",
                "private_only.pem",
            ],
        );
        let digest = Digest::of(&directory.read("public.der"));
        for name in ["key.pem", "sec1.pem", "compressed.pem", "private_only.pem"] {
            let pem = directory.text(name);
            assert_eq!(pem.contains("BEGIN EC PRIVATE KEY"), name != "key.pem");
            assert_eq!(OwnerKey::from_pem(&pem).unwrap().digest(), digest, "{name}");
        }
    }
}

#[test]
fn a_key_behind_its_parameters_is_read() {
    let Some(directory) = with_key("secp384r1") else {
        return;
    };
    directory.run(
        "openssl",
        &[
            "ecparam",
            "-name",
            "secp384r1",
            "-genkey",
            "-out",
            "key.pem",
        ],
    );
    let pem = directory.text("key.pem");
    assert!(pem.starts_with("-----BEGIN EC PARAMETERS-----"));
    let authorisation = OwnerKey::from_pem(&pem)
        .unwrap()
        .sign(&statement())
        .unwrap();
    assert_authorises(authorisation.key, authorisation.signature);
}
