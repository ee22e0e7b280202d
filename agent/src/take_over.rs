//! One agent takes the place of another that runs: what the old one listens on changes hands, so that
//! no connection finds nobody, and the old one ends its connections in its own time.
//!
//! ```text
//! heir                         holder
//!   | -- TakeOver(terms) ------> |   or Refused: another eBPF object, another number of workers
//!   | <- Item + descriptor ----- |   lock, admin port, every listener
//!   | <- Yielded --------------- |   goes on serving
//!   |  starts as any agent does, over the same listeners and pins
//!   | -- Serving --------------> |
//!   | <- Left ------------------ |   accepts nothing more, drains
//! ```
//!
//! Until `Serving` the holder serves, whatever becomes of the heir; from then on the heir does. In
//! between both accept from the same queues.

mod channel;
mod heir;
mod holder;

use std::{collections::HashMap, net::SocketAddrV4, os::fd::OwnedFd};

use serde::{Deserialize, Serialize};

pub use heir::TakeOverError;
pub(crate) use heir::{Heir, Predecessor};
pub(crate) use holder::{Holder, Outcome, Request};

/// What must be the same for both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// Of the eBPF object, and with it of the maps.
    pub object: String,
    /// Each has listeners of its own.
    pub workers: usize,
    /// Whether local hops may be accelerated: then the programs know how sockets are laid out.
    pub local_acceleration: bool,
}

impl Terms {
    /// What keeps an agent with other terms from taking over, if anything does.
    pub(crate) fn objection(&self, heir: &Self) -> Option<String> {
        let Self {
            object,
            workers,
            local_acceleration,
        } = self;
        if *object != heir.object {
            return Some(format!(
                "its eBPF object is another one ({} in place of {object}), which knows nothing of the \
                 connections that run: stop this agent, then start the other",
                heir.object
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

/// What a descriptor is that changes hands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Item {
    /// The right to serve the instance.
    Lock,
    /// A listener of the admin interface.
    Admin,
    /// A listener of a workload, for one worker.
    Listener {
        /// Whose.
        workload: Whose,
        /// Counts from 0.
        worker: usize,
        /// What it is for.
        purpose: Purpose,
    },
}

/// Which workload: the same name alone may be that of another group of processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Whose {
    /// Its name.
    pub name: String,
    /// What the kernel side calls it.
    pub id: u64,
    /// The cookie of its namespace.
    pub netns: u64,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// Connections that the workload opens.
    Egress,
    /// Connections to it.
    Ingress,
    /// Connections to an address that the configuration names.
    Named(SocketAddrV4),
}

/// What has changed hands and is not in use yet. Empty where nothing has.
#[derive(Debug, Default)]
pub(crate) struct Inherited(HashMap<Item, Vec<OwnedFd>>);

impl Inherited {
    fn put(&mut self, item: Item, descriptor: OwnedFd) {
        self.0.entry(item).or_default().push(descriptor);
    }

    /// Whether nothing has: no agent ran.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is this.
    pub(crate) fn take(&mut self, item: &Item) -> Vec<OwnedFd> {
        self.0.remove(item).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
