//! Gathering: shares come one owner at a time, until they give the seed.

use std::collections::BTreeMap;

use blahaj::Sharks;
use thiserror::Error;
use zeroize::Zeroizing;

use super::document::SharesDocument;
use super::share::{Share, ShareError};
use crate::seed::Seed;

/// The shares that have been given so far, each checked against the document.
///
/// They are in memory alone, and wiped when this is dropped.
#[derive(Debug)]
pub struct Gathering {
    document: SharesDocument,
    shares: BTreeMap<u8, Share>,
}

impl Gathering {
    /// Nothing gathered yet. That `document` is the right one is for the caller to have checked, by
    /// its [`hash`](SharesDocument::hash): a forged one gathers a forger's seed.
    pub fn new(document: SharesDocument) -> Self {
        Self {
            document,
            shares: BTreeMap::new(),
        }
    }

    /// Takes a share, or says what is wrong with it. A refused share changes nothing.
    pub fn add(&mut self, share: Share) -> Result<Progress, ShareError> {
        self.document.check(&share)?;
        let index = share.index;
        if self.shares.contains_key(&index) {
            return Err(ShareError::Duplicate { index });
        }
        self.shares.insert(index, share);
        Ok(self.progress())
    }

    /// How many shares have been given, and how many are needed.
    pub fn progress(&self) -> Progress {
        Progress {
            have: self.shares.len(),
            need: usize::from(self.document.threshold()),
        }
    }

    /// The seed, when there are shares enough.
    pub fn finish(&self) -> Result<Seed, CombineError> {
        let progress = self.progress();
        if !progress.is_enough() {
            return Err(CombineError::TooFew(progress));
        }
        let points = self
            .shares
            .values()
            .map(point)
            .collect::<Option<Vec<_>>>()
            .ok_or(CombineError::CheckValue)?;
        let bytes = Sharks(self.document.threshold())
            .recover(&points)
            .map(Zeroizing::new)
            .map_err(|_| CombineError::TooFew(progress))?;
        let seed = Seed::from_bytes(&bytes).map_err(|_| CombineError::CheckValue)?;
        if seed.check_value() != self.document.check_value() {
            return Err(CombineError::CheckValue);
        }
        Ok(seed)
    }
}

/// blahaj's form of a share: its index, and then its value.
fn point(share: &Share) -> Option<blahaj::Share> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(Seed::LEN + 1));
    bytes.push(share.index);
    bytes.extend_from_slice(share.value.as_slice());
    blahaj::Share::try_from(bytes.as_slice()).ok()
}

/// How far a gathering is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The number of shares given.
    pub have: usize,
    /// The number of shares that give the seed.
    pub need: usize,
}

impl Progress {
    /// Whether the shares give the seed.
    pub fn is_enough(self) -> bool {
        self.have >= self.need
    }
}

/// Why the shares do not give the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CombineError {
    /// More owners are needed.
    #[error("too few shares: {} of the {} that are needed have been given", .0.have, .0.need)]
    TooFew(Progress),
    /// Every share matches its commitment, yet together they give another seed: the document is not
    /// one that a Coordinator made.
    #[error("the shares give another seed than the one whose check value the document has")]
    CheckValue,
}

#[cfg(test)]
mod tests {
    use attestation::Digest;

    use super::*;
    use crate::shares::document::EncryptedShare;
    use crate::shares::share::SetId;
    use crate::shares::split::OwnerPublicKey;

    /// The shares with index 1, 2 and 5 of the bytes 0 to 63 with threshold 3, and their
    /// commitments, made with a few lines of Python over GF(256) with polynomial 0x11d. A document
    /// of today must still open when the crate that does the arithmetic has changed.
    const INDEPENDENT: [(u8, &str, &str); 3] = [
        (
            1,
            "c13984157d93091a4f52af4f28121f4d7546995fe831df3d5a02523887d998fc\
             89a26c5e4245931e44c637ab0849d9ec06d3cf260c891b45bca5ca746f25c4fe",
            "82f4b7a89ee07473170e07bf9385557334690f72a731f6b737eb7f2187b45c32",
        ),
        (
            2,
            "af306a9a84ba82bea41703f788074d8596abf06c112b6e5f7902f381b9925353\
             cc412c5b2bfef9c4a4839e56125aa4cf3a3ed8d2fb7cc8a1c0b3c2945d19cf17",
            "9b9614c61d86d3c2042075dbf25265d98ac6749f12bba3a107b8196c369aaaa5",
        ),
        (
            5,
            "4242add4b5f24e4382f4d8672ad6007c497fc31a4588d4dd2b806446d2b26f02\
             fa93029c7782aabb0c3640ccb16129c097b232f249ab50a1c22a33f3963d5b48",
            "c841e7c093950fe82b93293353b82f503e722680d76ea9ba657078a5614bc9c9",
        ),
    ];

    #[test]
    fn shares_of_an_independent_implementation_give_the_seed() {
        let bytes: Vec<u8> = (0..64).collect();
        let seed = Seed::from_bytes(&bytes).unwrap();
        let mut gathering = Gathering::new(document(seed.check_value()));
        for (index, value, _) in INDEPENDENT {
            gathering.add(share(index, value)).unwrap();
        }
        assert_eq!(gathering.finish().unwrap().expose_bytes(), &bytes[..]);
    }

    #[test]
    fn shares_of_another_seed_are_found_out_by_the_check_value() {
        let mut gathering = Gathering::new(document(Digest([0; 32])));
        for (index, value, _) in INDEPENDENT {
            gathering.add(share(index, value)).unwrap();
        }
        assert_eq!(gathering.finish().unwrap_err(), CombineError::CheckValue);
    }

    fn share(index: u8, value: &str) -> Share {
        let mut share = Share {
            set: SetId([7; 16]),
            index,
            threshold: 3,
            value: Box::new(Zeroizing::new([0; Seed::LEN])),
        };
        hex::decode_to_slice(value, share.value.as_mut_slice()).unwrap();
        share
    }

    fn document(check_value: Digest) -> SharesDocument {
        let owner = OwnerPublicKey::generate();
        let shares = (1..=5)
            .map(|index| EncryptedShare {
                owner: owner.clone(),
                commitment: INDEPENDENT
                    .iter()
                    .find(|known| known.0 == index)
                    .map_or(Digest([0; 32]), |known| Digest::from_hex(known.2).unwrap()),
                ciphertext: Vec::new(),
            })
            .collect();
        SharesDocument::new(SetId([7; 16]), 3, check_value, shares)
    }
}
