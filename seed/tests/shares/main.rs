//! Shares: any `k` owners give the seed back, fewer do not, and a bad share is named.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_shares;
mod decryption;
mod document;
mod owners;
mod recovery;
mod splitting;

use owners::owners;
use seed::{Gathering, Progress, Seed, Share, SharesDocument, split};

/// A seed split among the first `n` owners.
fn split_among(n: usize, threshold: usize) -> (Seed, SharesDocument) {
    let seed = Seed::generate().unwrap();
    let document = split(&seed, &public_keys(n), threshold).unwrap();
    (seed, document)
}

fn public_keys(n: usize) -> Vec<Vec<u8>> {
    owners(n).iter().map(|owner| owner.public.clone()).collect()
}

/// The share of owner `index`, counted from 1.
fn share(document: &SharesDocument, index: usize) -> Share {
    document.decrypt(&owners(index)[index - 1].pkcs8).unwrap()
}

fn gather(document: &SharesDocument, indexes: impl Iterator<Item = usize>) -> Gathering {
    let mut gathering = Gathering::new(document.clone());
    for (given, index) in indexes.enumerate() {
        assert_eq!(
            gathering.add(share(document, index)).unwrap(),
            Progress {
                have: given + 1,
                need: document.threshold().into()
            }
        );
    }
    gathering
}
