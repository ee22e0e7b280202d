//! The ways between two programs whose cost is counted.

use serde::{Deserialize, Serialize};

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
    /// As before; the kernel encrypts, the agent decrypts.
    KernelTx,
    /// As before; the agent encrypts, the kernel decrypts.
    KernelRx,
    /// As before; the kernel does both.
    KernelBoth,
}

/// The options of the agents on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agents {
    /// Of the agent's `--offload`.
    pub(crate) offload: &'static str,
    /// The datapath that each of them must report of the connection.
    pub(crate) datapath: &'static str,
}

impl Route {
    pub(crate) const ALL: [Self; 6] = [
        Self::Direct,
        Self::Plaintext,
        Self::Userspace,
        Self::KernelTx,
        Self::KernelRx,
        Self::KernelBoth,
    ];

    /// How the agents are started; none where no agent encrypts.
    pub(crate) fn agents(self) -> Option<Agents> {
        let (offload, datapath) = match self {
            Self::Direct | Self::Plaintext => return None,
            Self::Userspace => ("off", "userspace"),
            Self::KernelTx => ("tx", "kernel:tx"),
            Self::KernelRx => ("rx", "kernel:rx"),
            Self::KernelBoth => ("both", "kernel:both"),
        };
        Some(Agents { offload, datapath })
    }

    /// Whether it takes a kernel that does TLS.
    pub(crate) fn takes_kernel_tls(self) -> bool {
        matches!(self, Self::KernelTx | Self::KernelRx | Self::KernelBoth)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Plaintext => "plaintext, one agent",
            Self::Userspace => "userspace",
            Self::KernelTx => "kernel:tx",
            Self::KernelRx => "kernel:rx",
            Self::KernelBoth => "kernel:both",
        }
    }
}
