//! What an agent has from the one before it, by [take-over](crate::take_over) or from the service
//! manager's [store](crate::fd_store): open descriptors, each with what it is.

use std::{collections::HashMap, net::SocketAddrV4, os::fd::OwnedFd};

use serde::{Deserialize, Serialize};

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
    /// One more.
    pub(crate) fn put(&mut self, item: Item, descriptor: OwnedFd) {
        self.0.entry(item).or_default().push(descriptor);
    }

    /// Everything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Item, &OwnedFd)> {
        let items = self.0.iter();
        items.flat_map(|(item, descriptors)| descriptors.iter().map(move |it| (item, it)))
    }

    /// All that is this.
    pub(crate) fn take(&mut self, item: &Item) -> Vec<OwnedFd> {
        self.0.remove(item).unwrap_or_default()
    }
}
