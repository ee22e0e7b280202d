//! What the kernel's TLS is used for: what the operator wants, as far as this kernel can be trusted
//! with it.

use kernel_tls::{Ability, Capabilities, Cipher, Verdict, Why};
use serde::Serialize;
use tracing::{debug, info, warn};
use userspace_tls::{Flow, Offload, Takeover, WireSocket};

/// The key `offload`: which directions of a connection the kernel may protect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OffloadChoice {
    /// Both, once a connection has shown itself to be bulk, where that is sound.
    Auto,
    /// None.
    #[default]
    Off,
    /// Sending, from the first byte on.
    Tx,
    /// Receiving, likewise.
    Rx,
    /// Both, likewise.
    Both,
}

impl OffloadChoice {
    /// Every choice.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Off, Self::Tx, Self::Rx, Self::Both];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Tx => "tx",
            Self::Rx => "rx",
            Self::Both => "both",
        }
    }

    fn wants(self, flow: Flow) -> bool {
        match self {
            Self::Auto | Self::Both => true,
            Self::Off => false,
            Self::Tx => flow == Flow::Sent,
            Self::Rx => flow == Flow::Received,
        }
    }
}

/// The key `splice`: whether bulk that the kernel protects is moved by splice(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpliceChoice {
    /// Where that is sound.
    #[default]
    Auto,
    /// Never.
    Off,
}

impl SpliceChoice {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Auto, Self::Off];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

/// The choices and what the kernel can.
#[derive(Clone, Debug)]
pub(crate) struct KernelTls {
    choice: OffloadChoice,
    splice: SpliceChoice,
    capabilities: Capabilities,
}

impl KernelTls {
    /// Asks the kernel, and says once what was found.
    pub(crate) fn probe(choice: OffloadChoice, splice: SpliceChoice) -> Self {
        let this = Self {
            choice,
            splice,
            capabilities: Capabilities::probe(),
        };
        this.log();
        this
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
        let decide = |flow, ability| self.decide(flow, ability, peer);
        let decided = [
            decide(Flow::Sent, capabilities.tx(cipher)),
            decide(Flow::Received, capabilities.rx(cipher)),
        ];
        let decided = decided.map(|takeover| match takeover {
            Ok(_) if !wire.has_kernel_tls() => Err(WhyUserspace::NotAttached),
            decided => decided,
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
        let rekey = capabilities.rekey().is_ok();
        Plan {
            offload: Offload {
                tx,
                rx,
                rekey,
                splice: self.may_splice().is_ok(),
            },
            why,
        }
    }

    fn may_splice(&self) -> Result<(), WhyUserspace> {
        match self.splice {
            SpliceChoice::Auto => Ok(self.capabilities.splice().as_ref().copied()?),
            SpliceChoice::Off => Err(WhyUserspace::SpliceOff),
        }
    }

    fn decide(
        &self,
        flow: Flow,
        ability: &Ability,
        peer: PeerKind,
    ) -> Result<Takeover, WhyUserspace> {
        if !self.choice.wants(flow) {
            return Err(WhyUserspace::OffloadOff);
        }
        ability.as_ref().map_err(WhyUserspace::from)?;
        if self.choice != OffloadChoice::Auto {
            return Ok(Takeover::AtOnce);
        }
        // Copying through the kernel's TLS costs what our own costs: it is splicing that pays.
        self.may_splice()?;
        // What another program does with its keys is its own affair, and a kernel that can't follow
        // would have to end the connection.
        if flow == Flow::Received && peer == PeerKind::Other && self.capabilities.rekey().is_err() {
            return Err(WhyUserspace::ForeignPeer);
        }
        Ok(Takeover::Bulk)
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
