//! Destinations that refused the protocol by which agents know each other.

use std::{cell::RefCell, collections::HashSet, net::SocketAddr};

use userspace_tls::Offer;

/// What one worker has learned. A cache: what is forgotten costs a second handshake.
#[derive(Debug, Default)]
pub(crate) struct Strangers(RefCell<HashSet<SocketAddr>>);

/// More than a workload talks to; beyond it everything is learned anew.
const MOST: usize = 4096;

impl Strangers {
    /// What to offer to this destination.
    pub(crate) fn offer(&self, destination: SocketAddr) -> Offer {
        if self.0.borrow().contains(&destination) {
            Offer::Nothing
        } else {
            Offer::Sealwire1
        }
    }

    /// The destination refused the offer.
    pub(crate) fn add(&self, destination: SocketAddr) {
        let mut strangers = self.0.borrow_mut();
        if strangers.len() >= MOST {
            strangers.clear();
        }
        strangers.insert(destination);
    }
}
