//! The Sealwire agent: steers the TCP connections of workloads to itself with eBPF and carries them
//! through mutual TLS.
//!
//! It does not issue certificates; it takes what it proves itself with from files, or from a
//! Coordinator that has to prove itself first. The modules stand in the order in which a connection
//! meets them, then what surrounds it.
#![deny(unsafe_code)]

use agent_config as config;
use agent_config::policy;

pub mod bpf;
mod loader;
mod netlink;
pub mod netns;
mod sock_diag;
mod socket_options;
pub mod workload;

mod inherited;
mod instance;
mod interfaces;
mod listen;
mod names;
mod past_agent;

pub mod kernel_tls;
pub mod local_acceleration;

mod admission;
mod connection;
mod order;
mod rules;
mod strangers;
mod worker;

mod certificates;
mod credentials;
mod heartbeat;

mod atomic_file;
mod enrolment;

pub mod access_log;
mod admin;
mod advice;
mod causes;
mod kernel_reports;
mod log_queue;
mod metrics;
mod readable;
mod readiness;
mod refusals;
mod registry;
mod report;
mod signals;
#[cfg_attr(not(feature = "otlp"), path = "no_spans.rs")]
mod spans;

mod agent;
mod agent_error;
mod confine;
mod divide;
mod fd_store;
mod listen_fds;
mod reload;
mod running;
mod service_manager;
mod serving;
mod take_over;

pub use agent::run;
pub use agent_error::AgentError;
pub use causes::with_causes;
pub use divide::{Divided, divide};
pub use enrolment::{InitError, SetupError, init};
pub use fd_store::FdStore;
pub use loader::{LoaderError, run_if_asked};
pub use log_queue::LogQueue;
pub use names::OverheardAnswer;
pub use spans::SpansError;
pub use take_over::TakeOverError;
