//! The ways between two programs whose cost is counted.

use serde::{Deserialize, Serialize};

use super::exchange::Load;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Route {
    /// No agent.
    Direct,
    /// The client's agent, by a rule of mode `plaintext`: what a proxy costs that does not encrypt.
    /// The server's side has none, as plaintext ingress is not redirected.
    Plaintext,
    /// An agent on each side, both encrypting in user space.
    Userspace,
    /// As before; the client never blocks, and waits in `poll`.
    NeverBlocking,
    /// As before; the agents have `local_acceleration = "sk-msg"`.
    SkMsg,
    /// As `Userspace`; the kernel encrypts, the agent decrypts.
    KernelTx,
    /// As before; the agent encrypts, the kernel decrypts.
    KernelRx,
    /// As before; the kernel does both.
    KernelBoth,
    /// As before; and bulk is spliced.
    KernelSplice,
    /// What `offload = "auto"` makes of it: requests in user space, bulk in the kernel, spliced.
    Auto,
}

/// The options of the agents on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agents {
    /// The key `offload`.
    pub(crate) offload: &'static str,
    /// The key `splice`.
    pub(crate) splice: &'static str,
    /// The key `local_acceleration`.
    pub(crate) local_acceleration: &'static str,
}

impl Route {
    pub(crate) const ALL: [Self; 10] = [
        Self::Direct,
        Self::Plaintext,
        Self::Userspace,
        Self::NeverBlocking,
        Self::SkMsg,
        Self::KernelTx,
        Self::KernelRx,
        Self::KernelBoth,
        Self::KernelSplice,
        Self::Auto,
    ];

    /// How the agents are started; none where no agent encrypts.
    pub(crate) fn agents(self) -> Option<Agents> {
        let (offload, splice) = match self {
            Self::Direct | Self::Plaintext => return None,
            Self::Userspace | Self::NeverBlocking | Self::SkMsg => ("off", "off"),
            Self::KernelTx => ("tx", "off"),
            Self::KernelRx => ("rx", "off"),
            Self::KernelBoth => ("both", "off"),
            Self::KernelSplice => ("both", "auto"),
            Self::Auto => ("auto", "auto"),
        };
        let local_acceleration = if self == Self::SkMsg { "sk-msg" } else { "off" };
        Some(Agents {
            offload,
            splice,
            local_acceleration,
        })
    }

    /// Whether the client has a socket that never blocks.
    pub(crate) fn client_never_blocks(self) -> bool {
        matches!(self, Self::NeverBlocking | Self::SkMsg)
    }

    /// What the agents must report of a connection that bore this load: the client's and the
    /// server's.
    pub(crate) fn datapaths(self, load: Load) -> Option<[Datapath; 2]> {
        let copied = |name| Datapath {
            name,
            spliced: false,
            local_hop: "tcp",
        };
        let both = |datapath| Some([copied(datapath); 2]);
        let spliced = |datapaths: [_; 2]| {
            Some(datapaths.map(|name| Datapath {
                name,
                spliced: true,
                local_hop: "tcp",
            }))
        };
        match (self, load) {
            (Self::Direct | Self::Plaintext, _) => None,
            (Self::Userspace | Self::NeverBlocking, _)
            | (Self::SkMsg, Load::Mebibytes(_))
            | (Self::Auto, Load::Requests(_)) => both("userspace"),
            // The server's agent dials: what comes from a program to it is answers.
            (Self::SkMsg, Load::Requests(_)) => Some(["sk-msg", "tcp"].map(|local_hop| Datapath {
                local_hop,
                ..copied("userspace")
            })),
            (Self::KernelTx, _) => both("kernel:tx"),
            (Self::KernelRx, _) => both("kernel:rx"),
            (Self::KernelBoth, _) | (Self::KernelSplice, Load::Requests(_)) => both("kernel:both"),
            (Self::KernelSplice, Load::Mebibytes(_)) => spliced(["kernel:both"; 2]),
            (Self::Auto, Load::Mebibytes(_)) => spliced(["kernel:tx", "kernel:rx"]),
        }
    }

    /// Whether it takes a kernel that does TLS.
    pub(crate) fn takes_kernel_tls(self) -> bool {
        match self {
            Self::Direct
            | Self::Plaintext
            | Self::Userspace
            | Self::NeverBlocking
            | Self::SkMsg => false,
            Self::KernelTx
            | Self::KernelRx
            | Self::KernelBoth
            | Self::KernelSplice
            | Self::Auto => true,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Plaintext => "plaintext, one agent",
            Self::Userspace => "userspace",
            Self::NeverBlocking => "userspace, polling client",
            Self::SkMsg => "the same, sk-msg",
            Self::KernelTx => "kernel:tx",
            Self::KernelRx => "kernel:rx",
            Self::KernelBoth => "kernel:both",
            Self::KernelSplice => "kernel:both, spliced",
            Self::Auto => "auto",
        }
    }
}

/// What an agent reports of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datapath {
    /// Such as `kernel:both`.
    pub(crate) name: &'static str,
    /// Whether bytes were spliced.
    pub(crate) spliced: bool,
    /// How bytes pass between program and agent.
    pub(crate) local_hop: &'static str,
}
