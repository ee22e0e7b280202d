//! SEV-SNP: genuine reports, what may be done to them, and chips of our own for the rest.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod authority;
mod corruption;
mod der;
mod endorsement;
mod genuine;
mod misuse;
mod oracle;
mod own_chip;
mod policy;
mod revocation;
mod vectors;
