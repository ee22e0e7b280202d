use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::AttestedTlsError;

/// What an [`Acceptor`](crate::Acceptor) has seen since it began.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    attested: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    evicted: AtomicU64,
    dropped: AtomicU64,
    handshakes: AtomicU64,
    waiting: AtomicU64,
    connections: AtomicU64,
}

/// The values of [`Counters`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections taken from the kernel.
    pub accepted: u64,
    /// Those whose handshake and exchange succeeded.
    pub attested: u64,
    /// Those whose evidence was refused here.
    pub refused: u64,
    /// Those that failed otherwise: broken, too slow, against the protocol, refused by the peer.
    pub failed: u64,
    /// Those whose handshake made way for others.
    pub evicted: u64,
    /// Those that never came to a handshake, for want of room.
    pub dropped: u64,
    /// Handshakes in progress now.
    pub handshakes: u64,
    /// Connections that wait for their handshake now.
    pub waiting: u64,
    /// Connections that are open now, those in their handshake among them.
    pub connections: u64,
}

impl Counters {
    /// The values now.
    pub fn now(&self) -> Counts {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            accepted: value(&self.accepted),
            attested: value(&self.attested),
            refused: value(&self.refused),
            failed: value(&self.failed),
            evicted: value(&self.evicted),
            dropped: value(&self.dropped),
            handshakes: value(&self.handshakes),
            waiting: value(&self.waiting),
            connections: value(&self.connections),
        }
    }

    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn attested(&self) {
        self.attested.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, error: &AttestedTlsError) {
        let counter = match error {
            AttestedTlsError::Refused { .. } => &self.refused,
            AttestedTlsError::Evicted => &self.evicted,
            _ => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_load(&self, handshakes: usize, waiting: usize, connections: usize) {
        self.handshakes.store(handshakes as u64, Ordering::Relaxed);
        self.waiting.store(waiting as u64, Ordering::Relaxed);
        self.connections
            .store(connections as u64, Ordering::Relaxed);
    }
}
