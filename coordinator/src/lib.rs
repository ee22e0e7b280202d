//! The Coordinator's parts: today the PKI that gives workloads their mesh certificates.
//!
//! Serves nothing and reads no clock or environment: times and directories are arguments.

#![forbid(unsafe_code)]

pub mod pki;
