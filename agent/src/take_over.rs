//! One agent takes the place of another that runs: what the old one listens on changes hands, so that
//! no connection finds nobody, and the old one ends its connections in its own time.
//!
//! ```text
//! heir                         holder
//!   | -- TakeOver(terms) ------> |   or Refused: other eBPF maps, another number of workers
//!   | <- Item + descriptor ----- |   lock, admin port, every listener
//!   | <- Yielded --------------- |   goes on serving
//!   |  starts as any agent does, over the same listeners and pins
//!   | -- Serving --------------> |
//!   | <- Left ------------------ |   accepts nothing more, drains
//!   |  is the service manager's main process
//!   | -- Announced ------------> |   may end
//! ```
//!
//! Until `Serving` the holder serves, whatever becomes of the heir; from then on the heir does. In
//! between both accept from the same queues.

mod channel;
mod heir;
mod holder;

use serde::{Deserialize, Serialize};

pub use heir::TakeOverError;
pub(crate) use heir::{Heir, Predecessor};
pub(crate) use holder::{Holder, Outcome, Request};

/// What must be the same for both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// The version of the eBPF maps; the programs may be others.
    pub maps: String,
    /// Each has listeners of its own.
    pub workers: usize,
    /// Whether local hops may be accelerated: then the programs know how sockets are laid out.
    pub local_acceleration: bool,
}

impl Terms {
    /// What keeps an agent with other terms from taking over, if anything does.
    pub(crate) fn objection(&self, heir: &Self) -> Option<String> {
        let Self {
            maps,
            workers,
            local_acceleration,
        } = self;
        if *maps != heir.maps {
            return Some(format!(
                "its eBPF maps are others ({} in place of {maps}), which know nothing of the \
                 connections that run: stop this agent, then start the other",
                heir.maps
            ));
        }
        if *workers != heir.workers {
            return Some(format!(
                "it has {} workers in place of {workers}: start it with --workers {workers}",
                heir.workers
            ));
        }
        (*local_acceleration != heir.local_acceleration)
            .then(|| "its local_acceleration is another one".to_owned())
    }
}

#[cfg(test)]
mod tests;
