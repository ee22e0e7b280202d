//! The Attester (RFC 9334): gets evidence from the TEE that this process runs in.
