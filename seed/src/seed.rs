use std::fmt;

use attestation::Digest;
use aws_lc_rs::rand;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::derivation::{Label, derive};
use crate::derived_key::DerivedKey;

/// The secret that a deployment's long-lived keys are derived from: 64 random bytes.
///
/// It lives in the memory of Coordinators alone and is wiped when dropped.
pub struct Seed(Box<Zeroizing<[u8; Seed::LEN]>>);

impl Seed {
    /// The length of a seed in bytes.
    pub const LEN: usize = 64;

    /// A fresh random seed.
    pub fn generate() -> Result<Self, SeedError> {
        let mut seed = Self::zeros();
        rand::fill(seed.0.as_mut_slice()).map_err(|_| SeedError::Random)?;
        Ok(seed)
    }

    /// The seed that another Coordinator handed over ([`Seed::expose_bytes`]).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SeedError> {
        if bytes.len() != Self::LEN {
            return Err(SeedError::Length { got: bytes.len() });
        }
        let mut seed = Self::zeros();
        seed.0.copy_from_slice(bytes);
        Ok(seed)
    }

    /// The seed itself, for another Coordinator whose evidence has been verified, and for nobody
    /// else.
    pub fn expose_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The private key of the root CA.
    pub fn root_ca_key(&self) -> Result<DerivedKey, SeedError> {
        DerivedKey::derive(self.expose_bytes(), Label::RootCaKey)
    }

    /// The private key that signs transitions of the history.
    pub fn transition_key(&self) -> Result<DerivedKey, SeedError> {
        DerivedKey::derive(self.expose_bytes(), Label::TransitionKey)
    }

    /// The secret of the workloads that the manifest gives the workload secret ID `id`.
    pub fn workload_secret(&self, id: &str) -> Zeroizing<[u8; 64]> {
        let mut secret = Zeroizing::new([0; 64]);
        derive(
            self.expose_bytes(),
            Label::WorkloadSecret,
            id.as_bytes(),
            &mut secret,
        );
        secret
    }

    /// A public value that only this seed gives: it tells the right seed from a wrong one, and
    /// nothing about either.
    pub fn check_value(&self) -> Digest {
        let mut value = [0; 32];
        derive(self.expose_bytes(), Label::CheckValue, &[], &mut value);
        Digest(value)
    }

    // Boxed before it is filled, so that moving a seed leaves no copy on the stack.
    fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; Self::LEN])))
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// Why there is no seed, or no key from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SeedError {
    /// The operating system gave no random bytes.
    #[error("cannot get random bytes for a seed")]
    Random,
    /// Bytes of another length were handed over as a seed.
    #[error("a seed has {} bytes, not {got}", Seed::LEN)]
    Length {
        /// The number of bytes.
        got: usize,
    },
    /// The cryptographic library made no key, most likely for want of memory.
    #[error("cannot derive a P-384 key")]
    Key,
}
