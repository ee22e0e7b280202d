use std::fs;

use super::{Door, handshake::Established};

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
    /// Nobody encrypts, as the rule says.
    Plaintext,
}

/// Why the kernel does not do the encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhyUserspace {
    /// This kernel has no TLS.
    NoConfigTls,
    /// The kernel has TLS, this version of the agent does not use it.
    NotSupported,
}

impl DatapathKind {
    /// Name and reason, as logs and the admin interface give them.
    pub(super) fn as_strs(self) -> (&'static str, &'static str) {
        match self {
            Self::Userspace(WhyUserspace::NoConfigTls) => ("userspace", "no-config-tls"),
            Self::Userspace(WhyUserspace::NotSupported) => ("userspace", "not-supported"),
            Self::Plaintext => ("plaintext", "rule"),
        }
    }
}

/// Whether the kernel can do TLS on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelTls {
    /// The upper-layer protocol `tls` is there.
    Available,
    /// It is not.
    Absent,
}

impl KernelTls {
    /// Asks the kernel. A module that is not loaded counts as absent.
    pub(crate) fn probe() -> Self {
        let protocols = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp");
        match protocols {
            Ok(names) if names.split_whitespace().any(|name| name == "tls") => Self::Available,
            _ => Self::Absent,
        }
    }
}

impl Established {
    /// Chooses the datapath.
    pub(super) fn offload(self, door: &Door) -> Datapath {
        let kind = match (&self.session, door.worker.kernel_tls) {
            (None, _) => DatapathKind::Plaintext,
            (Some(_), KernelTls::Absent) => DatapathKind::Userspace(WhyUserspace::NoConfigTls),
            (Some(_), KernelTls::Available) => DatapathKind::Userspace(WhyUserspace::NotSupported),
        };
        Datapath {
            established: self,
            kind,
        }
    }
}
