//! Owners' consent to a manifest, as Contrast has it: a detached signature over a short text.

use std::collections::BTreeSet;

use attestation::Digest;
use aws_lc_rs::signature::UnparsedPublicKey;
use thiserror::Error;

use crate::curve::Curve;

/// What owners sign to make `manifest` follow the transition `previous`: the hexadecimal form, in
/// lower case and with no line feed, of `SHA-256(manifest || previous)`.
///
/// `manifest` is the SHA-256 of the new manifest, `previous` the hash of the last transition (zeros
/// where there is none). As the hash of that transition is part of it, a signature is good for one
/// place in one history.
pub fn update_statement(manifest: &Digest, previous: &Digest) -> String {
    Digest::of(&[manifest.0, previous.0].concat()).to_string()
}

/// One owner's consent.
///
/// With the statement in a file, `openssl dgst -sha256 -sign key.pem statement` makes the signature,
/// and so does `-sha384`: both hash functions are accepted, for keys on P-256 and on P-384.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorisation {
    /// The owner's public key: `SubjectPublicKeyInfo` in DER form, with uncompressed point.
    pub key: Vec<u8>,
    /// ECDSA in ASN.1 form, with SHA-256 or SHA-384, over the ASCII bytes of the statement.
    pub signature: Vec<u8>,
}

impl Authorisation {
    /// SHA-256 of the key, which is how a manifest names its owner.
    pub fn key_digest(&self) -> Digest {
        Digest::of(&self.key)
    }

    fn verify(&self, statement: &str) -> Result<(), Fault> {
        let curve = Curve::of_spki(&self.key).ok_or(Fault::Key)?;
        let mut fault = Fault::Key;
        for algorithm in curve.verification() {
            if let Ok(key) = UnparsedPublicKey::new(algorithm, &self.key).parse() {
                fault = Fault::Signature;
                if key
                    .verify_sig(statement.as_bytes(), &self.signature)
                    .is_ok()
                {
                    return Ok(());
                }
            }
        }
        Err(fault)
    }
}

enum Fault {
    Key,
    Signature,
}

/// Whether at least `quorum` of the `owners` of the active manifest, each named by the SHA-256 of
/// its public key, have signed the statement.
///
/// One authorisation that is wrong refuses all, so that nothing unexplained is let by.
pub fn authorise(
    owners: &[Digest],
    quorum: usize,
    statement: &str,
    authorisations: &[Authorisation],
) -> Result<(), AuthorisationError> {
    if owners.is_empty() {
        return Err(AuthorisationError::UpdatesDisabled);
    }
    if !(1..=owners.len()).contains(&quorum) {
        return Err(AuthorisationError::Quorum {
            got: quorum,
            owners: owners.len(),
        });
    }
    // Hashes are cheap, signatures are not: a flood of either ends here.
    let mut signers = BTreeSet::new();
    for (authorisation, position) in authorisations.iter().zip(1..) {
        let key = authorisation.key_digest();
        if !owners.contains(&key) {
            return Err(AuthorisationError::UnknownKey { position, key });
        }
        if !signers.insert(key) {
            return Err(AuthorisationError::Duplicate { position, key });
        }
    }
    for (authorisation, position) in authorisations.iter().zip(1..) {
        authorisation.verify(statement).map_err(|fault| {
            let key = authorisation.key_digest();
            match fault {
                Fault::Key => AuthorisationError::UnsupportedKey { position, key },
                Fault::Signature => AuthorisationError::Signature { position, key },
            }
        })?;
    }
    if signers.len() < quorum {
        return Err(AuthorisationError::TooFew {
            have: signers.len(),
            need: quorum,
        });
    }
    Ok(())
}

/// Why a manifest is not authorised. Authorisations are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthorisationError {
    /// The active manifest names no owner, so there is nobody to ask.
    #[error("updates are disabled: the active manifest has no owner keys")]
    UpdatesDisabled,
    /// No number of signatures would be enough, or none would be asked for.
    #[error("the quorum must be 1 to {owners}, the number of owner keys, not {got}")]
    Quorum {
        /// The quorum.
        got: usize,
        /// The number of owners.
        owners: usize,
    },
    /// The key is no owner's.
    #[error(
        "authorisation {position}: key {key} is not among the owner keys of the active manifest"
    )]
    UnknownKey {
        /// Which authorisation.
        position: usize,
        /// SHA-256 of the key.
        key: Digest,
    },
    /// The owner has signed already, and counts once.
    #[error("authorisation {position}: owner {key} has signed already")]
    Duplicate {
        /// Which authorisation.
        position: usize,
        /// SHA-256 of the key.
        key: Digest,
    },
    /// The manifest names a key that cannot sign.
    #[error(
        "authorisation {position}: owner {key} has no ECDSA key on P-256 or P-384 in \
         SubjectPublicKeyInfo DER form with uncompressed point"
    )]
    UnsupportedKey {
        /// Which authorisation.
        position: usize,
        /// SHA-256 of the key.
        key: Digest,
    },
    /// The signature is not that owner's on this statement.
    #[error(
        "authorisation {position}: the signature of owner {key} is wrong, or is for another \
         manifest or previous transition"
    )]
    Signature {
        /// Which authorisation.
        position: usize,
        /// SHA-256 of the key.
        key: Digest,
    },
    /// More owners must sign.
    #[error("too few owners have signed: {have} of the {need} that are needed")]
    TooFew {
        /// The number of owners that have signed.
        have: usize,
        /// The quorum.
        need: usize,
    },
}
