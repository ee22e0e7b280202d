//! The rules of a workload that are in force, replaced as a whole.

use std::{
    net::SocketAddrV4,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    config::{self, EgressListener, Enforcement},
    connection::CloseCause,
    policy::{
        Direction, EgressMode, EgressPolicy, IngressMode, IngressPolicy, Mode, PeerSet, RuleRef,
    },
    registry::Connection,
};

/// One generation of a workload's rules.
#[derive(Debug)]
pub(crate) struct Rules {
    /// For connections from outside.
    pub ingress: IngressPolicy,
    /// For connections to the outside.
    pub egress: EgressPolicy,
    /// Addresses of its loopback that lead elsewhere.
    pub listeners: Vec<EgressListener>,
    /// Whether a peer that they do not list is refused.
    pub enforcement: Enforcement,
}

impl Rules {
    /// The rules that the configuration has for a workload.
    pub(crate) fn of(config: &config::Workload) -> Self {
        Self {
            ingress: config.ingress.clone(),
            egress: config.egress.clone(),
            listeners: config.listeners.clone(),
            enforcement: config.enforcement,
        }
    }

    /// The listener at this address, and which of them it is.
    pub(crate) fn listener(&self, listen: SocketAddrV4) -> Option<(usize, &EgressListener)> {
        let mut listeners = self.listeners.iter().enumerate();
        listeners.find(|(_, listener)| listener.listen == listen)
    }

    /// Why a connection that earlier rules have let through must end under these, if it must. A
    /// peer that has not proved itself yet is judged when it has.
    pub(crate) fn objection(&self, connection: &Connection) -> Option<CloseCause> {
        let (needed, peers) = match (connection.rule(), connection.direction()) {
            (RuleRef::Listener { listen, .. }, _) => match self.listener(listen) {
                Some((_, listener)) => (Needed::Mtls, &listener.peers),
                None => return Some(CloseCause::RuleChanged),
            },
            (_, Direction::Egress) => {
                let decision = self.egress.decide(connection.to());
                let needed = match decision.mode {
                    EgressMode::Mtls => Needed::Mtls,
                    EgressMode::Plaintext => Needed::Nothing,
                    EgressMode::Deny => return Some(CloseCause::RuleChanged),
                };
                (needed, decision.peers)
            }
            (_, Direction::Ingress) => {
                let decision = self.ingress.decide(connection.to().port());
                let needed = match decision.mode {
                    IngressMode::Mtls => Needed::Mtls,
                    // A rule of these modes can't list peers.
                    IngressMode::Tls | IngressMode::Plaintext => Needed::Nothing,
                };
                (needed, decision.peers)
            }
        };
        match needed {
            Needed::Nothing => None,
            Needed::Mtls => match lacks(connection, peers) {
                Some(CloseCause::PeerNotAllowedAnyMore)
                    if self.enforcement == Enforcement::DryRun =>
                {
                    None
                }
                objection => objection,
            },
        }
    }
}

/// What a connection must have, whatever it has.
enum Needed {
    Nothing,
    Mtls,
}

/// What a connection lacks of mutual TLS with one of `peers`.
fn lacks(connection: &Connection, peers: &PeerSet) -> Option<CloseCause> {
    if connection.mode() == Mode::Plaintext {
        return Some(CloseCause::RuleChanged);
    }
    match &connection.established()?.peer {
        None => Some(CloseCause::RuleChanged),
        Some(peer) if peers.allows(peer) => None,
        Some(_) => Some(CloseCause::PeerNotAllowedAnyMore),
    }
}

/// The rules in force. Whoever replaces them closes what they forbid; whoever opens a connection
/// decides by [`Self::get`], lists it, and asks [`Self::objection_since`]: so one of the two sees it.
#[derive(Debug)]
pub(crate) struct CurrentRules(RwLock<Option<Arc<Rules>>>);

impl CurrentRules {
    /// These rules, from now on.
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self(RwLock::new(Some(rules)))
    }

    /// The rules now; `None` once the workload is not served any more.
    pub(crate) fn get(&self) -> Option<Arc<Rules>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Other rules, from now on; `None`: nothing is let through.
    pub(crate) fn replace(&self, rules: Option<Arc<Rules>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Why the connection must end under the rules now, where they are not `decided` any more.
    pub(crate) fn objection_since(
        &self,
        decided: &Arc<Rules>,
        connection: &Connection,
    ) -> Option<CloseCause> {
        match self.get() {
            None => Some(CloseCause::WorkloadRemoved),
            Some(now) if Arc::ptr_eq(&now, decided) => None,
            Some(now) => now.objection(connection),
        }
    }
}

#[cfg(test)]
mod tests;
