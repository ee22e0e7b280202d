//! The Coordinator: verifies what workloads and nodes run on, and issues their mesh certificates.
//!
//! Bytes of a request become types in [`server`]; [`core::Coordinator`] acts on one immutable
//! [`core::Deployment`] at a time; [`store`] keeps history and is trusted for nothing.

#![forbid(unsafe_code)]

pub mod audit;
pub mod change;
pub mod core;
pub mod deployment;
pub mod enrol;
pub mod flags;
pub mod follow;
mod limited_listener;
pub mod metrics;
pub mod peers;
pub mod pki;
pub mod probes;
pub mod recover;
pub mod refusal;
pub mod roster;
pub mod rotate;
mod serve;
pub mod server;
pub mod services;
pub mod store;

pub use serve::{ServeError, serve};
