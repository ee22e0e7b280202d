//! The manifest: what a deployment trusts, who may change it, and how.

#![forbid(unsafe_code)]
