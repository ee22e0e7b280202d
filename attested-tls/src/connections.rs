use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::source::Source;

/// The connections that are open, from the first byte of their handshake on.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    limit_per_source: usize,
    open: Mutex<Open>,
    closed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_source: HashMap<Source, usize>,
}

impl Connections {
    pub(crate) fn new(limit: usize, limit_per_source: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            limit_per_source,
            open: Mutex::default(),
            closed: Notify::new(),
        })
    }

    /// Whether one more from `source` would be too many.
    pub(crate) fn has_room(&self, source: Source) -> bool {
        let open = self.open();
        open.total < self.limit
            && open.by_source.get(&source).copied().unwrap_or(0) < self.limit_per_source
    }

    /// Counts one more, until the place is dropped.
    pub(crate) fn take(self: &Arc<Self>, source: Source) -> Place {
        let mut open = self.open();
        open.total += 1;
        *open.by_source.entry(source).or_default() += 1;
        Place {
            connections: Arc::clone(self),
            source,
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.open().total
    }

    /// Ends when a connection was closed since the last call.
    pub(crate) async fn closed(&self) {
        self.closed.notified().await;
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place among [`Connections`].
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    source: Source,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.total = open.total.saturating_sub(1);
        if let Entry::Occupied(mut count) = open.by_source.entry(self.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        drop(open);
        self.connections.closed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(last: u8) -> Source {
        IpAddr::from([192, 0, 2, last]).into()
    }

    #[test]
    fn places_are_limited_in_all_and_by_source_until_they_are_dropped() {
        let connections = Connections::new(3, 2);
        let first = connections.take(source(1));
        let _second = connections.take(source(1));
        assert!(!connections.has_room(source(1)));
        assert!(connections.has_room(source(2)));
        let _third = connections.take(source(2));
        assert!(!connections.has_room(source(3)));
        drop(first);
        assert!(connections.has_room(source(1)));
        assert_eq!(connections.total(), 2);
    }

    #[test]
    fn nothing_is_kept_of_sources_that_are_gone() {
        let connections = Connections::new(3, 3);
        drop(connections.take(source(1)));
        assert!(connections.open().by_source.is_empty());
    }
}
