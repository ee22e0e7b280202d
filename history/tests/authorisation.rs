//! Updates need the signatures of enough distinct owners, over one manifest in one place.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use attestation::Digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm,
};
use history::{
    Authorisation, AuthorisationError, OwnerKey, OwnerKeyError, authorise, update_statement,
};
use pem_rfc7468::LineEnding;

fn pem(algorithm: &'static EcdsaSigningAlgorithm) -> String {
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
    pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, key.as_ref()).unwrap()
}

/// Three owners, on both curves.
fn owners() -> Vec<OwnerKey> {
    [
        &ECDSA_P384_SHA384_ASN1_SIGNING,
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        &ECDSA_P384_SHA384_ASN1_SIGNING,
    ]
    .map(|algorithm| OwnerKey::from_pem(&pem(algorithm)).unwrap())
    .into()
}

fn digests(owners: &[OwnerKey]) -> Vec<Digest> {
    owners.iter().map(OwnerKey::digest).collect()
}

fn statement() -> String {
    update_statement(&Digest([1; 32]), &Digest([2; 32]))
}

fn signed(owners: &[OwnerKey]) -> Vec<Authorisation> {
    owners
        .iter()
        .map(|owner| owner.sign(&statement()).unwrap())
        .collect()
}

#[test]
fn the_statement_is_the_known_one() {
    // printf '01..0102..02' | xxd -r -p | sha256sum
    assert_eq!(
        statement(),
        "f818afd37a6dc3bc92fb44731011277006db4efa6e9023cd7468c02335d22a4d"
    );
    assert_ne!(
        statement(),
        update_statement(&Digest([2; 32]), &Digest([1; 32]))
    );
}

#[test]
fn every_quorum_is_met_by_enough_owners_in_any_order_and_by_no_fewer() {
    let owners = owners();
    let digests = digests(&owners);
    let mut authorisations = signed(&owners);
    authorisations.rotate_left(1);
    for quorum in 1..=3 {
        for have in 0..=3 {
            let want = if have >= quorum {
                Ok(())
            } else {
                Err(AuthorisationError::TooFew { have, need: quorum })
            };
            assert_eq!(
                authorise(&digests, quorum, &statement(), &authorisations[..have]),
                want
            );
        }
    }
}

#[test]
fn without_owners_updates_are_disabled() {
    let owners = owners();
    assert_eq!(
        authorise(&[], 1, &statement(), &signed(&owners)),
        Err(AuthorisationError::UpdatesDisabled)
    );
}

#[test]
fn an_impossible_quorum_is_refused() {
    let owners = owners();
    for got in [0, 4, usize::MAX] {
        assert_eq!(
            authorise(&digests(&owners), got, &statement(), &signed(&owners)),
            Err(AuthorisationError::Quorum { got, owners: 3 })
        );
    }
}

#[test]
fn a_strangers_signature_is_refused_even_beside_enough_owners() {
    let owners = owners();
    let stranger = &owners[2];
    assert_eq!(
        authorise(&digests(&owners[..2]), 2, &statement(), &signed(&owners)),
        Err(AuthorisationError::UnknownKey {
            position: 3,
            key: stranger.digest()
        })
    );
}

#[test]
fn an_owner_counts_once() {
    let owners = owners();
    // Two signatures of one owner are different bytes: ECDSA draws a new number each time.
    let twice = [signed(&owners[..1]), signed(&owners[..1])].concat();
    assert_ne!(twice[0], twice[1]);
    assert_eq!(
        authorise(&digests(&owners), 2, &statement(), &twice),
        Err(AuthorisationError::Duplicate {
            position: 2,
            key: owners[0].digest()
        })
    );
}

#[test]
fn an_owner_that_the_manifest_names_twice_counts_once() {
    let owners = owners();
    let named_twice = [owners[0].digest(), owners[0].digest()];
    assert_eq!(
        authorise(&named_twice, 2, &statement(), &signed(&owners[..1])),
        Err(AuthorisationError::TooFew { have: 1, need: 2 })
    );
}

#[test]
fn a_signature_for_another_manifest_or_place_is_refused() {
    let owners = owners();
    for other in [
        update_statement(&Digest([3; 32]), &Digest([2; 32])),
        update_statement(&Digest([1; 32]), &Digest([3; 32])),
    ] {
        assert_eq!(
            authorise(&digests(&owners), 2, &other, &signed(&owners[..2])),
            Err(AuthorisationError::Signature {
                position: 1,
                key: owners[0].digest()
            })
        );
    }
}

#[test]
fn every_flipped_bit_of_a_signature_is_refused() {
    let owners = owners();
    for (position, authorisation) in signed(&owners[..2]).into_iter().enumerate() {
        for bit in 0..authorisation.signature.len() * 8 {
            let mut flipped = authorisation.clone();
            flipped.signature[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                authorise(&digests(&owners), 1, &statement(), &[flipped]),
                Err(AuthorisationError::Signature {
                    position: 1,
                    key: owners[position].digest()
                }),
                "bit {bit}"
            );
        }
    }
}

#[test]
fn one_owners_signature_under_anothers_key_is_refused() {
    let owners = owners();
    let mut authorisations = signed(&owners);
    let first = authorisations[0].signature.clone();
    authorisations[2].signature = first;
    assert_eq!(
        authorise(&digests(&owners), 1, &statement(), &authorisations),
        Err(AuthorisationError::Signature {
            position: 3,
            key: owners[2].digest()
        })
    );
}

#[test]
fn an_owner_key_that_cannot_sign_is_named() {
    let owners = owners();
    let point = &owners[0].public_key_der()[23..];
    let mut off_curve = owners[0].public_key_der();
    *off_curve.last_mut().unwrap() ^= 1;
    for key in [b"not a key".to_vec(), Vec::new(), point.to_vec(), off_curve] {
        let digest = Digest::of(&key);
        let signature = signed(&owners[..1])[0].signature.clone();
        assert_eq!(
            authorise(
                &[digest],
                1,
                &statement(),
                &[Authorisation { key, signature }]
            ),
            Err(AuthorisationError::UnsupportedKey {
                position: 1,
                key: digest
            })
        );
    }
}

#[test]
fn texts_that_are_no_private_keys_are_told_apart() {
    let refused = |pem: &str| OwnerKey::from_pem(pem).unwrap_err();
    let good = pem(&ECDSA_P384_SHA384_ASN1_SIGNING);
    assert!(matches!(refused(""), OwnerKeyError::NotPem(_)));
    assert!(matches!(
        refused("-----BEGIN EC PRIVATE KEY-----"),
        OwnerKeyError::NotPem(_)
    ));
    assert_eq!(
        refused(&good.replace("PRIVATE", "ENCRYPTED PRIVATE")),
        OwnerKeyError::Encrypted
    );
    assert_eq!(
        refused(&good.replace("PRIVATE", "RSA PRIVATE")),
        OwnerKeyError::Label
    );
    assert_eq!(
        refused(&pem(&ECDSA_P521_SHA512_ASN1_SIGNING)),
        OwnerKeyError::Unsupported
    );
}

#[test]
fn debug_output_has_no_secret() {
    let owner = &owners()[0];
    assert_eq!(
        format!("{owner:?}"),
        format!("OwnerKey({})", owner.digest())
    );
}
