//! Owners sign with what they have: `openssl`, or an HSM behind PKCS #11.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod directory;
mod openssl;
mod skip;
mod softhsm;

use attestation::Digest;
use history::{Authorisation, authorise, update_statement};

fn statement() -> String {
    update_statement(&Digest::of(b"manifest"), &Digest::of(b"previous"))
}

/// Whether the signature is taken for this statement, and not for another.
fn assert_authorises(key: Vec<u8>, signature: Vec<u8>) {
    let owners = [Digest::of(&key)];
    let authorisations = [Authorisation { key, signature }];
    assert_eq!(authorise(&owners, 1, &statement(), &authorisations), Ok(()));
    let other = update_statement(&Digest::of(b"another manifest"), &Digest::of(b"previous"));
    authorise(&owners, 1, &other, &authorisations).unwrap_err();
}
