//! Any `k` owners give the seed back, and fewer do not.

use seed::{CombineError, MAX_SHARES, Progress};

use crate::{gather, share, split_among};

#[test]
fn every_subset_of_k_gives_the_seed_and_none_of_fewer_does() {
    for n in 1..=5 {
        for k in 1..=n {
            let (seed, document) = split_among(n, k);
            for subset in 0..1_u32 << n {
                let chosen = (1..=n).filter(|index| subset >> (index - 1) & 1 == 1);
                let have = chosen.clone().count();
                match gather(&document, chosen).finish() {
                    Ok(got) => {
                        assert!(have >= k, "{have} of {k} gave a seed");
                        assert_eq!(got.expose_bytes(), seed.expose_bytes());
                    }
                    Err(error) => {
                        assert!(have < k, "{have} of {k} gave none: {error}");
                        assert_eq!(
                            error,
                            CombineError::TooFew(Progress { have, need: k }),
                            "k={k} n={n}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn sixteen_of_sixteen_give_the_seed_in_any_order() {
    let (seed, document) = split_among(MAX_SHARES, MAX_SHARES);
    let seed_again = gather(&document, (1..=MAX_SHARES).rev()).finish().unwrap();
    assert_eq!(seed_again.expose_bytes(), seed.expose_bytes());
}

#[test]
fn a_gathering_goes_on_after_a_refused_share_and_after_too_few() {
    let (seed, document) = split_among(3, 2);
    let (_, other) = split_among(3, 2);
    let mut gathering = gather(&document, [1].into_iter());
    gathering.finish().unwrap_err();
    gathering.add(share(&other, 2)).unwrap_err();
    assert!(gathering.add(share(&document, 2)).unwrap().is_enough());
    assert_eq!(
        gathering.finish().unwrap().expose_bytes(),
        seed.expose_bytes()
    );
}
