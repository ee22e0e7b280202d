//! A share that does not fit is refused, and what is wrong with it named.

use seed::{CombineError, ENCODED_SHARE, Gathering, Progress, Seed, Share, ShareError, split};

use crate::{gather, public_keys, share, split_among};

#[test]
fn a_stale_share_is_refused() {
    let (seed, old) = split_among(3, 2);
    let document = split(&seed, &public_keys(3), 2).unwrap();
    let mut gathering = Gathering::new(document.clone());
    assert_eq!(
        gathering.add(share(&old, 2)).unwrap_err(),
        ShareError::Set {
            index: 2,
            got: share(&old, 2).set(),
            want: share(&document, 2).set(),
        }
    );
    assert_eq!(gathering.progress(), Progress { have: 0, need: 2 });
}

#[test]
fn a_duplicated_share_is_refused_and_counts_once() {
    let (_, document) = split_among(3, 2);
    let mut gathering = gather(&document, [3].into_iter());
    assert_eq!(
        gathering.add(share(&document, 3)).unwrap_err(),
        ShareError::Duplicate { index: 3 }
    );
    assert_eq!(
        gathering.finish().unwrap_err(),
        CombineError::TooFew(Progress { have: 1, need: 2 })
    );
}

#[test]
fn every_flipped_bit_of_a_share_is_refused_and_the_field_named() {
    const SET: usize = ENCODED_SHARE - Seed::LEN - 18;
    const INDEX: usize = SET + 16;
    const THRESHOLD: usize = INDEX + 1;
    const VALUE: usize = THRESHOLD + 1;
    let (_, document) = split_among(3, 2);
    let intact = share(&document, 2);
    for bit in 0..ENCODED_SHARE * 8 {
        let mut bytes = intact.encode();
        let (byte, mask) = (bit / 8, 1 << (bit % 8));
        bytes[byte] ^= mask;
        let flipped = match Share::decode(&bytes) {
            Ok(flipped) => flipped,
            Err(error) => {
                assert!(byte < SET, "bit {bit}: {error}");
                continue;
            }
        };
        let index = flipped.index();
        let want = match byte {
            ..SET => panic!("bit {bit} of the version was not missed"),
            SET..INDEX => ShareError::Set {
                index: 2,
                got: flipped.set(),
                want: intact.set(),
            },
            INDEX if index == 3 => ShareError::Swapped { index: 3, of: 2 },
            INDEX => ShareError::Index { index, shares: 3 },
            THRESHOLD => ShareError::Threshold {
                index: 2,
                got: 2 ^ mask,
                want: 2,
            },
            VALUE.. => ShareError::Value { index: 2 },
        };
        let error = Gathering::new(document.clone()).add(flipped).unwrap_err();
        assert_eq!(error, want, "bit {bit}");
    }
}

#[test]
fn a_wrong_value_under_an_index_already_given_is_wrong_rather_than_duplicated() {
    let (_, document) = split_among(2, 2);
    let mut gathering = gather(&document, [1].into_iter());
    let mut bytes = share(&document, 1).encode();
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(
        gathering.add(Share::decode(&bytes).unwrap()).unwrap_err(),
        ShareError::Value { index: 1 }
    );
}
