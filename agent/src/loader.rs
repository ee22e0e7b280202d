//! The agent's other process, which alone may call bpf(2): it loads, attaches and pins programs, and
//! fills maps, as the agent asks it to.
//!
//! The agent reads what peers send, and its process, every thread of it, can't call bpf(2) at all. The
//! loader reads what its agent says and nothing else; it has no connection to any network, and ends with
//! the agent. What it can be asked for is [`protocol`]. Why two processes:
//! `docs/src/decisions/0041-a-loader-process.md`.

mod answers;
mod channel;
mod client;
mod control_maps;
mod kernel;
mod local_hops;
mod process;
mod protocol;
mod reports;
mod steering;

pub(crate) use answers::DnsAnswers;
pub(crate) use client::Loader;
pub use client::LoaderError;
pub(crate) use control_maps::ControlMaps;
pub(crate) use local_hops::LocalHops;
pub use process::run_if_asked;
pub(crate) use protocol::Readings;
pub(crate) use reports::Refusals;
pub(crate) use steering::{Steering, WorkloadPrograms};

/// What the process is called.
const NAME: &str = "sealwire-loader";
