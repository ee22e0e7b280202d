//! `sealwire set|verify|recover|sign|status` with a real Coordinator on a simulated TEE, as owners
//! and data owners meet it: files, messages, exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;
mod first_set;
mod hardware_module;
mod keys;
mod process;
mod reach;
mod recover;
mod rollback;
mod skip;
mod status;
mod update;
mod verify;
