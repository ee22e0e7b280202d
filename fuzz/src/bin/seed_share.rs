//! `Share::decode` and `Gathering::add`: any bytes. A share is written as the very bytes again, and a
//! Coordinator takes those that it gave out and nothing else.
#![no_main]

use std::sync::LazyLock;

use fuzz::rsa_owner::RsaOwner;
use fuzz::{Outcome, sample_history, start};
use libfuzzer_sys::fuzz_target;
use seed::{Gathering, Share, SharesDocument, split};

/// A document, and the shares in it.
struct Shared {
    document: SharesDocument,
    shares: Vec<Vec<u8>>,
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let owners = [(); 3].map(|()| RsaOwner::new());
    let keys = owners.each_ref().map(|it| it.public.clone());
    let document = split(&sample_history::seed(), &keys, 2).expect("shares");
    let shares = owners.map(|owner| {
        let share = document.decrypt(&owner.private_pem).expect("a share");
        share.encode().to_vec()
    });
    Shared {
        document,
        shares: shares.to_vec(),
    }
});

fuzz_target!(init: start(&SHARED.shares, attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn attempt(bytes: &[u8]) -> Outcome {
    let share = match Share::decode(bytes) {
        Ok(share) => share,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Outcome::Refused;
        }
    };
    assert_eq!(share.encode().as_slice(), bytes);
    let Shared { document, shares } = &*SHARED;
    let added = Gathering::new(document.clone()).add(share);
    assert_eq!(added.is_ok(), shares.iter().any(|it| it == bytes));
    Outcome::of(&added)
}
