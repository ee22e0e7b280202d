//! A split is random, and refused where it cannot be.

use seed::{ENCODED_SHARE, PublicKeyError, Seed, SplitError, split};

use crate::owners::owners;
use crate::{public_keys, share, split_among};

#[test]
fn one_share_of_two_is_not_the_seed() {
    let (seed, document) = split_among(2, 2);
    for index in 1..=2 {
        let encoded = share(&document, index).encode();
        assert_ne!(
            encoded[ENCODED_SHARE - Seed::LEN..],
            seed.expose_bytes()[..]
        );
    }
}

#[test]
fn coefficients_are_uniform_and_zero_is_one_of_them() {
    // With threshold 2, share 1 is the seed plus the coefficients. A generator that never draws
    // zero lets an attacker with k - 1 shares exclude seeds (RUSTSEC-2024-0398). The chance that
    // 6,400 coefficients lack one of 256 values is below 1 in 10^8.
    let seed = Seed::generate().unwrap();
    let mut counts = [0_u32; 256];
    for _ in 0..100 {
        let document = split(&seed, &public_keys(2), 2).unwrap();
        let encoded = share(&document, 1).encode();
        for (value, byte) in encoded[ENCODED_SHARE - Seed::LEN..]
            .iter()
            .zip(seed.expose_bytes())
        {
            counts[usize::from(value ^ byte)] += 1;
        }
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn each_split_is_a_new_set() {
    let (seed, first) = split_among(2, 2);
    let second = split(&seed, &public_keys(2), 2).unwrap();
    assert_ne!(share(&first, 1).set(), share(&second, 1).set());
    assert_ne!(first.hash(), second.hash());
    assert_eq!(first.check_value(), second.check_value());
}

#[test]
fn impossible_splits_are_refused() {
    let seed = Seed::generate().unwrap();
    let refused = |owners: &[Vec<u8>], threshold| split(&seed, owners, threshold).unwrap_err();
    let keys = public_keys(3);
    assert_eq!(refused(&[], 1), SplitError::Owners { got: 0 });
    assert_eq!(
        refused(&vec![keys[0].clone(); 17], 2),
        SplitError::Owners { got: 17 }
    );
    for got in [0, 4, 257, usize::MAX] {
        assert_eq!(
            refused(&keys, got),
            SplitError::Threshold { got, owners: 3 }
        );
    }
    assert_eq!(
        refused(&[keys[0].clone(), keys[1].clone(), keys[0].clone()], 2),
        SplitError::DuplicateOwner {
            first: 1,
            second: 3
        }
    );
}

#[test]
fn keys_of_other_kinds_and_forms_are_refused() {
    let seed = Seed::generate().unwrap();
    let mut keys = public_keys(2);
    let mut refused = |key: Vec<u8>| {
        keys[1] = key;
        match split(&seed, &keys, 2).unwrap_err() {
            SplitError::Owner { position: 2, error } => error,
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused(Vec::new()), PublicKeyError::NotRsa);
    let elliptic = seed.root_ca_key().unwrap();
    assert_eq!(
        refused(elliptic.public_key_der().to_vec()),
        PublicKeyError::NotRsa
    );
    assert_eq!(refused(owners(1)[0].spki()), PublicKeyError::NotPkcs1);
    // SEQUENCE { INTEGER of 1024 bits, INTEGER 65537 }
    let mut short = hex::decode("3081890281810080").unwrap();
    short.extend([0; 126]);
    short.extend(hex::decode("010203010001").unwrap());
    assert_eq!(refused(short), PublicKeyError::Size);
}
