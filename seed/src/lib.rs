//! The seed: the one secret that a Coordinator derives its keys from.

#![forbid(unsafe_code)]
