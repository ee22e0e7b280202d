//! The rules of a workload that are in force, replaced as a whole.

mod proof;

use std::{
    net::{SocketAddr, SocketAddrV4},
    sync::{Arc, PoisonError, RwLock},
};

pub(crate) use proof::OfPeer;
use tokio::sync::watch;
use tracing::info;

use crate::{
    config::{self, EgressListener, Enforcement},
    connection::CloseCause,
    names::{Hearsay, NameTable, Overhearing},
    policy::{
        Direction, DnsName, EgressMode, EgressPolicy, Heard, IngressMode, IngressPolicy, Known,
        Mode, PeerSet, RuleRef, UdpMode, Unknown, WorkloadName,
    },
    registry::{Connection, Registry},
};

/// One generation of a workload's rules, and of what their names lead to.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// For connections from outside.
    pub ingress: Arc<IngressPolicy>,
    /// For connections to the outside.
    pub egress: Arc<EgressPolicy>,
    /// What the names in `egress` lead to.
    pub names: Arc<NameTable>,
    /// What is overheard of the names below those in `egress`, where there are any.
    pub overhearing: Option<Arc<Overhearing>>,
    /// Addresses of its loopback that lead elsewhere.
    pub listeners: Arc<[EgressListener]>,
    /// Whether it may send datagrams.
    pub udp: UdpMode,
    /// Whether a peer that they do not list is refused.
    pub enforcement: Enforcement,
}

impl Rules {
    /// The rules that the configuration has for a workload.
    pub(crate) fn of(config: &config::Workload) -> Self {
        Self {
            ingress: Arc::new(config.ingress.clone()),
            egress: Arc::new(config.egress.clone()),
            names: Arc::new(NameTable::pending(&config.egress)),
            overhearing: None,
            listeners: config.listeners.as_slice().into(),
            udp: config.udp,
            enforcement: config.enforcement,
        }
    }

    /// The listener at this address, and which of them it is.
    pub(crate) fn listener(&self, listen: SocketAddrV4) -> Option<(usize, &EgressListener)> {
        let mut listeners = self.listeners.iter().enumerate();
        listeners.find(|(_, listener)| listener.listen == listen)
    }

    /// Ends the workload's connections that these rules forbid: how many.
    pub(crate) fn enforce(&self, workload: &WorkloadName, registry: &Registry) -> usize {
        close_objected(registry, workload, |connection| self.objection(connection))
    }

    /// What is known of the names of a destination.
    pub(crate) fn names_of(&self, destination: SocketAddr) -> NamesOf<'_> {
        let overhearing = self.overhearing.as_ref();
        NamesOf {
            looked_up: self.names.names(destination),
            hearsay: overhearing.map_or(Hearsay::Nothing, |it| it.hearsay(destination)),
            unknown: self.names.unknown(),
        }
    }

    /// Why a connection that earlier rules have let through must end under these, if it must. A
    /// peer that has not proved itself yet is judged when it has.
    pub(crate) fn objection(&self, connection: &Connection) -> Option<CloseCause> {
        let (needed, peers) = match (connection.rule(), connection.direction()) {
            (RuleRef::Listener { listen, .. }, _) => match self.listener(*listen) {
                Some((_, listener)) => (Needed::Mtls, &listener.peers),
                None => return Some(CloseCause::RuleChanged),
            },
            (_, Direction::Egress) => {
                let names = self.names_of(connection.to());
                // Those that it has now, and those that it had when the connection was opened.
                let looked_up = names.looked_up.into_iter().flat_map(|names| &**names);
                let then = connection.names().iter();
                let all: Vec<_> = looked_up.chain(then).cloned().collect();
                // What is not known yet is judged when it is.
                let heard = match names.hearsay.heard() {
                    Heard::Nothing => Heard::Names(&[]),
                    heard @ Heard::Names(_) => heard,
                };
                let known = Known {
                    names: &all,
                    heard,
                    unknown: &[],
                };
                let to = connection.to();
                let met = connection.established().and_then(|it| it.peer.as_ref());
                let decided = match met {
                    Some(peer) => self.of_peer(to, known, peer).map(|it| it.decision),
                    None => self.egress.decide(to, known),
                };
                let Ok(decision) = decided else {
                    return Some(CloseCause::RuleChanged);
                };
                let needed = match decision.mode {
                    // Whatever the destination alone may have: in clear nobody proves to be anybody.
                    _ if met.is_none() && self.await_proof(to, known, &decision) => Needed::Mtls,
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

/// What is known of the names of a destination.
#[derive(Debug)]
pub(crate) struct NamesOf<'a> {
    looked_up: Option<&'a Arc<[DnsName]>>,
    hearsay: Hearsay,
    unknown: &'a [(DnsName, Unknown)],
}

impl NamesOf<'_> {
    /// What the rules ask for.
    pub(crate) fn known(&self) -> Known<'_> {
        Known {
            names: self.looked_up.map_or(&[], |names| names),
            heard: self.hearsay.heard(),
            unknown: self.unknown,
        }
    }

    /// The names, to be kept.
    pub(crate) fn all(self) -> Option<Arc<[DnsName]>> {
        match self.hearsay {
            Hearsay::Names(heard) if !heard.is_empty() => {
                let looked_up = self.looked_up.into_iter().flat_map(|names| &**names);
                let heard = heard.into_iter().map(|it| it.name);
                Some(looked_up.cloned().chain(heard).collect())
            }
            Hearsay::Names(_) | Hearsay::Nothing => self.looked_up.cloned(),
        }
    }
}

/// Ends the connections of a workload that there is an objection to: how many.
pub(crate) fn close_objected(
    registry: &Registry,
    workload: &WorkloadName,
    objection: impl Fn(&Connection) -> Option<CloseCause>,
) -> usize {
    let causes = registry.close_objected(|connection| {
        let is_its = connection.workload() == workload.as_str();
        is_its.then(|| objection(connection)).flatten()
    });
    for cause in CloseCause::ALL {
        let closed = causes.iter().filter(|it| **it == cause).count();
        if closed > 0 {
            info!(%workload, closed, reason = cause.as_str(), "connections closed");
        }
    }
    causes.len()
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
pub(crate) struct CurrentRules {
    rules: RwLock<Option<Arc<Rules>>>,
    changed: watch::Sender<()>,
}

impl CurrentRules {
    /// These rules, from now on.
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules: RwLock::new(Some(rules)),
            changed: watch::Sender::default(),
        }
    }

    /// The rules now; `None` once the workload is not served any more.
    pub(crate) fn get(&self) -> Option<Arc<Rules>> {
        self.rules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// No rules, from now on: nothing is let through.
    pub(crate) fn remove(&self) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.send_replace(());
    }

    /// Other rules, from now on, made of those before; `None`: the same. Those that are in force now,
    /// if they are others.
    pub(crate) fn update(&self, make: impl FnOnce(&Rules) -> Option<Rules>) -> Option<Arc<Rules>> {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let new = Arc::new(make(rules.as_ref()?)?);
        *rules = Some(new.clone());
        drop(rules);
        self.changed.send_replace(());
        Some(new)
    }

    /// Hears when the rules are others.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Why the connection must end under the rules now, where they are not `decided` any more or more may
    /// have been heard.
    pub(crate) fn objection_since(
        &self,
        decided: &Arc<Rules>,
        connection: &Connection,
    ) -> Option<CloseCause> {
        match self.get() {
            None => Some(CloseCause::WorkloadRemoved),
            Some(now) if Arc::ptr_eq(&now, decided) && now.overhearing.is_none() => None,
            Some(now) => now.objection(connection),
        }
    }
}

#[cfg(test)]
mod tests;
