//! What the kernel's TLS is used for: what the operator wants, as far as this kernel can be trusted
//! with it.

use agent_config::{OffloadChoice, SpliceChoice};
use kernel_tls::{Ability, Capabilities, Cipher, Verdict, Why};
use tracing::{debug, info, warn};
use userspace_tls::{Flow, Offload, Takeover, WireSocket};

/// The choices and what the kernel can.
#[derive(Clone, Debug)]
pub(crate) struct KernelTls {
    choice: OffloadChoice,
    splice: SpliceChoice,
    capabilities: Capabilities,
}

impl KernelTls {
    /// What was found, said once.
    pub(crate) fn new(
        choice: OffloadChoice,
        splice: SpliceChoice,
        capabilities: Capabilities,
    ) -> Self {
        let this = Self {
            choice,
            splice,
            capabilities,
        };
        this.log();
        this
    }

    /// Which directions the operator lets the kernel protect.
    pub(crate) fn choice(&self) -> OffloadChoice {
        self.choice
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn log(&self) {
        let capabilities = &self.capabilities;
        let version = capabilities.version.map(|version| version.to_string());
        let [tx, rx] = [capabilities.tx_verdict(), capabilities.rx_verdict()];
        let [rekey, splice] =
            [capabilities.rekey(), capabilities.splice()].map(|ability| Verdict::from(ability).why);
        info!(
            offload = self.choice.as_str(),
            kernel = version,
            tx = tx.why,
            rx = rx.why,
            rekey,
            splice,
            "what the kernel's TLS can be trusted with"
        );
        let is_ordered = matches!(
            self.choice,
            OffloadChoice::Tx | OffloadChoice::Rx | OffloadChoice::Both
        );
        if is_ordered && let Err(why) = capabilities.ulp() {
            warn!(
                offload = self.choice.as_str(),
                %why,
                "the kernel can't do what `offload` asks for; the agent encrypts"
            );
        }
    }

    /// Attaches the kernel's TLS to a socket that is about to begin its handshake, if any use of it
    /// may follow. Where that fails, the agent encrypts.
    pub(crate) fn attach(&self, wire: &mut WireSocket) {
        if self.choice == OffloadChoice::Off || self.capabilities.ulp().is_err() {
            return;
        }
        if let Err(error) = wire.attach_kernel_tls() {
            debug!(%error, "the kernel's TLS can't be attached to a socket");
        }
    }

    /// What the kernel is to do for a connection after its handshake.
    pub(crate) fn plan(&self, wire: &WireSocket, cipher: Cipher, peer: PeerKind) -> Plan {
        let capabilities = &self.capabilities;
        let soundness = Soundness {
            tx: capabilities.tx(cipher),
            rx: capabilities.rx(cipher),
            rekey: capabilities.rekey(),
            splice: capabilities.splice(),
            is_attached: wire.has_kernel_tls(),
        };
        soundness.plan(self.choice, self.splice, peer)
    }
}

/// What the kernel can be trusted with on one connection.
#[derive(Clone, Copy, Debug)]
struct Soundness<'a> {
    tx: &'a Ability,
    rx: &'a Ability,
    rekey: &'a Ability,
    splice: &'a Ability,
    /// The protocol is attached to the socket.
    is_attached: bool,
}

impl Soundness<'_> {
    fn plan(self, choice: OffloadChoice, splice: SpliceChoice, peer: PeerKind) -> Plan {
        let splice = match splice {
            SpliceChoice::Auto => self.splice.as_ref().copied().map_err(WhyUserspace::from),
            SpliceChoice::Off => Err(WhyUserspace::SpliceOff),
        };
        let decided = [Flow::Sent, Flow::Received].map(|flow| {
            let takeover = self.decide(choice, splice, flow, peer)?;
            if self.is_attached {
                Ok(takeover)
            } else {
                Err(WhyUserspace::NotAttached)
            }
        });
        let [tx, rx] = decided.map(Result::unwrap_or_default);
        let why = match (tx, rx) {
            (Takeover::AtOnce, _) | (_, Takeover::AtOnce) => WhyUserspace::HandingOver,
            (Takeover::Bulk, _) | (_, Takeover::Bulk) => WhyUserspace::SmallMessages,
            (Takeover::Never, Takeover::Never) => {
                let mut reasons = decided.into_iter().filter_map(Result::err);
                // A direction that nobody asked for explains nothing.
                let first = reasons.clone().find(|why| *why != WhyUserspace::OffloadOff);
                first.or_else(|| reasons.next()).unwrap_or_default()
            }
        };
        Plan {
            offload: Offload {
                tx,
                rx,
                rekey: self.rekey.is_ok(),
                splice: splice.is_ok(),
            },
            why,
        }
    }

    fn decide(
        self,
        choice: OffloadChoice,
        splice: Result<(), WhyUserspace>,
        flow: Flow,
        peer: PeerKind,
    ) -> Result<Takeover, WhyUserspace> {
        if !wants(choice, flow) {
            return Err(WhyUserspace::OffloadOff);
        }
        let ability = match flow {
            Flow::Sent => self.tx,
            Flow::Received => self.rx,
        };
        ability.as_ref().map_err(WhyUserspace::from)?;
        if choice != OffloadChoice::Auto {
            return Ok(Takeover::AtOnce);
        }
        // Copying through the kernel's TLS costs what our own costs: it is splicing that pays.
        splice?;
        // What another program does with its keys is its own affair, and a kernel that can't follow
        // would have to end the connection.
        if flow == Flow::Received && peer == PeerKind::Other && self.rekey.is_err() {
            return Err(WhyUserspace::ForeignPeer);
        }
        Ok(Takeover::Bulk)
    }
}

fn wants(choice: OffloadChoice, flow: Flow) -> bool {
    match choice {
        OffloadChoice::Auto | OffloadChoice::Both => true,
        OffloadChoice::Off => false,
        OffloadChoice::Tx => flow == Flow::Sent,
        OffloadChoice::Rx => flow == Flow::Received,
    }
}

/// What is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerKind {
    /// An agent, which updates its keys only at their limit.
    Agent,
    /// Any other program with a certificate of the mesh.
    Other,
}

/// What the kernel is to do for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) offload: Offload,
    /// Why the agent encrypts, as long as the kernel has taken nothing over.
    pub(crate) why: WhyUserspace,
}

/// Why the kernel does not do the encryption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WhyUserspace {
    /// The operator does not want it.
    #[default]
    OffloadOff,
    /// The operator wants no splicing, and `auto` gains nothing without.
    SpliceOff,
    /// This kernel has no TLS.
    NoConfigTls,
    /// This kernel's TLS is known to be unsafe.
    UnsafeKernel,
    /// Nobody has shown that what `auto` needs is sound on this kernel.
    UnprovenKernel,
    /// The kernel lacks the cipher that the peers agreed on.
    Cipher,
    /// The probe failed, or what came out of it was wrong.
    ProbeFailed,
    /// The kernel's TLS could not be attached: the peer had closed already, or memory was short.
    NotAttached,
    /// The peer is no agent and may update its keys, which this kernel can't follow.
    ForeignPeer,
    /// The connection has not shown itself to be bulk.
    SmallMessages,
    /// The kernel takes over with the first byte.
    HandingOver,
}

impl WhyUserspace {
    /// The code in logs, metrics and the admin interface.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OffloadOff => "offload-off",
            Self::SpliceOff => "splice-off",
            Self::NoConfigTls => "no-config-tls",
            Self::UnsafeKernel => "unsafe-kernel",
            Self::UnprovenKernel => "unproven-kernel",
            Self::Cipher => "cipher",
            Self::ProbeFailed => "probe-failed",
            Self::NotAttached => "not-attached",
            Self::ForeignPeer => "foreign-peer",
            Self::SmallMessages => "small-messages",
            Self::HandingOver => "handing-over",
        }
    }

    /// What it means; docs/src/reference/log.md has the same words.
    pub(crate) fn means(self) -> &'static str {
        match self {
            Self::OffloadOff => "the configuration says so",
            Self::SpliceOff => {
                "the configuration wants no splicing, without which `auto` gains nothing"
            }
            Self::NoConfigTls => {
                "this kernel has no TLS, or its module is not loaded: `modprobe tls`"
            }
            Self::UnsafeKernel => "this kernel's TLS is known to be unsafe: update it",
            Self::UnprovenKernel => {
                "nobody has shown that splicing is sound on this line of kernels, which `auto` needs"
            }
            Self::Cipher => "the kernel lacks the cipher of this connection",
            Self::ProbeFailed => "trying the kernel's TLS at the start failed",
            Self::NotAttached => {
                "the kernel refused the protocol for this socket: the peer had closed already, or memory was short"
            }
            Self::ForeignPeer => {
                "the peer is no agent and may replace its key, which this kernel can't follow"
            }
            Self::SmallMessages => "the connection has not shown itself to be bulk",
            Self::HandingOver => "the kernel has not taken over yet",
        }
    }
}

impl From<&Why> for WhyUserspace {
    fn from(why: &Why) -> Self {
        match why {
            Why::NoConfigTls { .. } => Self::NoConfigTls,
            Why::KnownBad { .. } | Why::AcceptsTlsInSockmap | Why::SockmapUnknown(_) => {
                Self::UnsafeKernel
            }
            Why::Unproven { .. } => Self::UnprovenKernel,
            Why::NoCipher { .. } => Self::Cipher,
            Why::WrongBytes | Why::NoRekey(_) | Why::Socket(_) | Why::NoLoopback(_) => {
                Self::ProbeFailed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_says_of_each_reason_what_the_agent_says() {
        let page = include_str!("../../docs/src/reference/log.md");
        for why in [
            WhyUserspace::OffloadOff,
            WhyUserspace::SpliceOff,
            WhyUserspace::NoConfigTls,
            WhyUserspace::UnsafeKernel,
            WhyUserspace::UnprovenKernel,
            WhyUserspace::Cipher,
            WhyUserspace::ProbeFailed,
            WhyUserspace::NotAttached,
            WhyUserspace::ForeignPeer,
            WhyUserspace::SmallMessages,
            WhyUserspace::HandingOver,
        ] {
            let row = format!("| `userspace`: `{}` | {} |", why.as_str(), why.means());
            assert!(page.contains(&row), "{row}");
        }
    }

    const UNPROVEN: Ability = Err(Why::Unproven { version: None });
    const WRONG: Ability = Err(Why::WrongBytes);

    /// A kernel that can do everything, as 6.14 and newer can.
    const SOUND: Soundness<'_> = Soundness {
        tx: &Ok(()),
        rx: &Ok(()),
        rekey: &Ok(()),
        splice: &Ok(()),
        is_attached: true,
    };

    fn plan(soundness: Soundness<'_>, choice: OffloadChoice, peer: PeerKind) -> [&'static str; 3] {
        let Plan { offload, why } = soundness.plan(choice, SpliceChoice::Auto, peer);
        let word = |takeover| match takeover {
            Takeover::Never => "never",
            Takeover::Bulk => "bulk",
            Takeover::AtOnce => "at once",
        };
        [word(offload.tx), word(offload.rx), why.as_str()]
    }

    #[test]
    fn the_kernel_gets_the_directions_that_were_asked_for() {
        for (choice, expected) in [
            (OffloadChoice::Off, ["never", "never", "offload-off"]),
            (OffloadChoice::Tx, ["at once", "never", "handing-over"]),
            (OffloadChoice::Rx, ["never", "at once", "handing-over"]),
            (OffloadChoice::Both, ["at once", "at once", "handing-over"]),
            (OffloadChoice::Auto, ["bulk", "bulk", "small-messages"]),
        ] {
            assert_eq!(plan(SOUND, choice, PeerKind::Other), expected);
        }
    }

    #[test]
    fn a_direction_that_is_not_sound_stays_here_and_says_why() {
        let half = Soundness {
            rx: &WRONG,
            ..SOUND
        };
        assert_eq!(
            plan(half, OffloadChoice::Both, PeerKind::Agent),
            ["at once", "never", "handing-over"]
        );
        assert_eq!(
            plan(half, OffloadChoice::Rx, PeerKind::Agent),
            ["never", "never", "probe-failed"]
        );
    }

    #[test]
    fn auto_wants_sound_splicing_and_what_is_ordered_does_not() {
        let copying = Soundness {
            splice: &UNPROVEN,
            ..SOUND
        };
        assert_eq!(
            plan(copying, OffloadChoice::Auto, PeerKind::Agent),
            ["never", "never", "unproven-kernel"]
        );
        let ordered = copying.plan(OffloadChoice::Both, SpliceChoice::Auto, PeerKind::Agent);
        assert_eq!(ordered.offload.tx, Takeover::AtOnce);
        assert!(!ordered.offload.splice);
        let unwanted = SOUND.plan(OffloadChoice::Auto, SpliceChoice::Off, PeerKind::Agent);
        assert_eq!(unwanted.why, WhyUserspace::SpliceOff);
        assert!(!unwanted.offload.splice);
    }

    #[test]
    fn auto_leaves_receiving_from_strangers_here_where_a_key_can_not_be_replaced() {
        let stuck = Soundness {
            rekey: &WRONG,
            ..SOUND
        };
        for (peer, rx) in [(PeerKind::Agent, "bulk"), (PeerKind::Other, "never")] {
            assert_eq!(
                plan(stuck, OffloadChoice::Auto, peer),
                ["bulk", rx, "small-messages"]
            );
        }
    }

    #[test]
    fn a_socket_without_the_protocol_gets_no_key() {
        let late = Soundness {
            is_attached: false,
            ..SOUND
        };
        assert_eq!(
            plan(late, OffloadChoice::Both, PeerKind::Agent),
            ["never", "never", "not-attached"]
        );
        assert_eq!(
            plan(late, OffloadChoice::Off, PeerKind::Agent),
            ["never", "never", "offload-off"]
        );
    }
}
