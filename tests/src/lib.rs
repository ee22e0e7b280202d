//! Hosts as network namespaces, the unmodified programs that run in them, a sniffer on the wire
//! between them, and a guard around the agent: what the tests in `tests/` stand on.
//!
//! Links nothing of the agent: it meets the product as its users do, through the binary.
//!
//! ```text
//! cargo build --release && cargo test -p testbed                       # all, as root
//! cargo test -p testbed --test leaks segments_of_a_raw_socket -- --nocapture
//! ```
//!
//! `SEALWIRE_BIN_DIR` names another directory of binaries than `target/release`,
//! `SEALWIRE_SKIP_LOG` a file for the tests that could not run.

#![deny(unsafe_code)]
#![expect(
    clippy::missing_panics_doc,
    reason = "an assertion that fails is this crate's result"
)]

pub mod admin;
pub mod agent;
pub mod browser;
pub mod clock;
pub mod coordinator;
pub mod dns;
pub mod etcd;
pub mod machine;
pub mod pair;
pub mod peer;
pub mod pki;
pub mod program;
pub mod service_manager;
pub mod skip;
pub mod small_disk;
pub mod sniffer;
pub mod stream;
pub mod testbed;

mod cgroup;
mod sys;

pub use agent::{Agent, AgentConfig, EgressRule, IngressRule, WorkloadConfig};
pub use browser::{Browser, Screen};
pub use clock::Clock;
pub use coordinator::{Coordinator, CoordinatorConfig};
pub use etcd::Etcd;
pub use machine::Machine;
pub use pair::{EnrolledPair, Pair};
pub use peer::{Client, Closed, End, Report, Server};
pub use program::{Finished, HostCommand, Running};
pub use service_manager::ServiceManager;
pub use small_disk::SmallDisk;
pub use sniffer::{Capture, Sniffer};
pub use stream::MARKER;
pub use sys::permit;
pub use testbed::{Host, Testbed};
