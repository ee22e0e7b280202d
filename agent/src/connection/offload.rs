use std::cell::Cell;

use kernel_tls::Cipher;
use tokio::net::TcpStream;
use tracing::warn;
use userspace_tls::{Alpn, Events, Flow, Offload, Queues};

use super::{Door, handshake::Established};
use crate::{
    bpf::WhyTcp,
    kernel_tls::{PeerKind, Plan, WhyUserspace},
    local_acceleration::LocalHop,
    policy::Direction,
    registry::{self, Registration},
};

/// An established connection and the way its bytes will flow.
#[derive(Debug)]
pub(super) struct Datapath {
    pub(super) established: Established,
    pub(super) kind: DatapathKind,
}

/// Which way the bytes flow, and why not a better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DatapathKind {
    /// The agent encrypts.
    Userspace(WhyUserspace),
    /// The kernel encrypts, in these directions.
    Kernel(Directions),
    /// Nobody encrypts, as the rule says.
    Plaintext,
}

/// Which directions the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directions {
    Tx,
    Rx,
    Both,
}

impl DatapathKind {
    /// The datapath after the kernel has taken over one more direction.
    fn with(self, flow: Flow) -> Self {
        Self::Kernel(match (self, flow) {
            (Self::Kernel(Directions::Both), _)
            | (Self::Kernel(Directions::Rx), Flow::Sent)
            | (Self::Kernel(Directions::Tx), Flow::Received) => Directions::Both,
            (_, Flow::Sent) => Directions::Tx,
            (_, Flow::Received) => Directions::Rx,
        })
    }
}

impl From<DatapathKind> for registry::Datapath {
    fn from(kind: DatapathKind) -> Self {
        let (name, why, means) = match kind {
            DatapathKind::Userspace(why) => ("userspace", why.as_str(), why.means()),
            DatapathKind::Kernel(Directions::Tx) => ("kernel", "tx", "it encrypts"),
            DatapathKind::Kernel(Directions::Rx) => ("kernel", "rx", "it decrypts"),
            DatapathKind::Kernel(Directions::Both) => ("kernel", "both", "both directions"),
            DatapathKind::Plaintext => ("plaintext", "rule", "in clear, as a rule says"),
        };
        Self { name, why, means }
    }
}

impl Established {
    /// Chooses the datapath to begin with.
    pub(super) fn offload(mut self, door: &Door) -> Datapath {
        let kind = match &self.session {
            None => DatapathKind::Plaintext,
            Some(session) => {
                let Plan { offload, why } = self.plan(door, session.cipher());
                self.wire.offload(offload);
                DatapathKind::Userspace(why)
            }
        };
        Datapath {
            established: self,
            kind,
        }
    }

    fn plan(&self, door: &Door, cipher: Option<Cipher>) -> Plan {
        let alpn = self.entry.established().and_then(|found| found.alpn);
        let peer = match alpn {
            Some(Alpn::Sealwire1) => PeerKind::Agent,
            _ => PeerKind::Other,
        };
        match cipher {
            Some(cipher) => door.worker.kernel_tls.plan(&self.wire, cipher, peer),
            None => Plan {
                offload: Offload::default(),
                why: WhyUserspace::Cipher,
            },
        }
    }
}

/// Writes down what a relay tells while it runs.
#[derive(Debug)]
pub(super) struct Follower<'a> {
    entry: &'a Registration,
    kind: Cell<DatapathKind>,
    door: &'a Door,
}

impl<'a> Follower<'a> {
    pub(super) fn new(entry: &'a Registration, kind: DatapathKind, door: &'a Door) -> Self {
        let this = Self {
            entry,
            kind: Cell::new(kind),
            door,
        };
        entry.set_datapath(kind.into());
        let why = this.may_accelerate().err().unwrap_or(WhyTcp::FewMessages);
        entry.set_local_hop(LocalHop::Tcp(why));
        this
    }

    /// Whether the program's messages may come past the loopback's TCP once there are enough.
    fn may_accelerate(&self) -> Result<(), WhyTcp> {
        self.door.worker.hooks.borrow().acceleration()?;
        match (self.door.direction, self.kind.get()) {
            (Direction::Ingress, _) => Err(WhyTcp::Ingress),
            (_, DatapathKind::Plaintext) => Err(WhyTcp::Plaintext),
            (Direction::Egress, _) => Ok(()),
        }
    }

    fn accelerate(&self, app: &TcpStream) -> Result<(), WhyTcp> {
        self.may_accelerate()?;
        let Door {
            worker, workload, ..
        } = self.door;
        workload.netns.stay().map_err(|_| WhyTcp::NotTaken)?;
        worker.hooks.borrow_mut().accelerate(app)
    }
}

impl Events for Follower<'_> {
    fn taken_over(&self, flow: Flow) {
        let kind = self.kind.get().with(flow);
        self.kind.set(kind);
        self.entry.set_datapath(kind.into());
    }

    fn key_limit_near(&self) {
        self.entry.key_limit_near();
        warn!(
            workload = self.entry.workload(),
            connection = %self.entry.id(),
            from = %self.entry.from(),
            to = %self.entry.to(),
            "a connection has nearly used up its key, and this kernel can't replace it: the connection \
             will be reset; let the program open another"
        );
    }

    fn chatty(&self, app: &TcpStream) -> Queues {
        match self.accelerate(app) {
            Ok(()) => {
                self.entry.set_local_hop(LocalHop::SkMsg);
                Queues::TcpAndRedirected
            }
            Err(why) => {
                self.entry.set_local_hop(LocalHop::Tcp(why));
                Queues::Tcp
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_what_it_has_taken_over_in_whichever_order() {
        let shown = |flows: &[Flow]| {
            let begin = DatapathKind::Userspace(WhyUserspace::SmallMessages);
            let kind = flows.iter().fold(begin, |kind, flow| kind.with(*flow));
            let registry::Datapath { name, why, .. } = kind.into();
            format!("{name}:{why}")
        };
        assert_eq!(shown(&[]), "userspace:small-messages");
        assert_eq!(shown(&[Flow::Sent]), "kernel:tx");
        assert_eq!(shown(&[Flow::Received]), "kernel:rx");
        assert_eq!(shown(&[Flow::Sent, Flow::Received]), "kernel:both");
        assert_eq!(shown(&[Flow::Received, Flow::Sent]), "kernel:both");
    }
}
