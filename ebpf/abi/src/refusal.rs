use crate::{Endpoint, WorkloadId, pod};

/// Why the kernel side refused a connection or dropped a segment. Also the index of its counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelRefusal {
    /// The agent's heartbeat is older than [`crate::HEARTBEAT_LIFETIME_NS`].
    AgentStale = 0,
    /// The workload has no certificate (yet), or one whose validity has not begun.
    NoCredential = 1,
    /// The hook runs for a workload of which the agent has told nothing (yet).
    UnknownWorkload = 2,
    /// The agent has no listener for this address family (any more).
    NoListener = 3,
    /// A table that must hold the flow is full.
    FlowTableFull = 4,
    /// The socket is bound to a device, so it can't reach the agent over the loopback.
    BoundDevice = 5,
    /// The destination refused a moment ago.
    RefusedRecently = 6,
    /// A segment that would have left the namespace without coming from a sealed socket.
    UnsealedSegment = 7,
    /// The workload's certificate has expired.
    CredentialExpired = 8,
    /// The socket is in another network namespace than the workload's, where no agent listens.
    ForeignNamespace = 9,
    /// A connection to a socket of the workload's that has not come by way of the agent.
    NotSteered = 10,
    /// The table of ports that programs listen on is full, so this one can't be steered.
    PortTableFull = 11,
    /// A datagram that would have left the namespace of a workload that may send none.
    UdpDenied = 12,
}

impl KernelRefusal {
    /// Every reason, in the order of its value.
    pub const ALL: [Self; 13] = [
        Self::AgentStale,
        Self::NoCredential,
        Self::UnknownWorkload,
        Self::NoListener,
        Self::FlowTableFull,
        Self::BoundDevice,
        Self::RefusedRecently,
        Self::UnsealedSegment,
        Self::CredentialExpired,
        Self::ForeignNamespace,
        Self::NotSteered,
        Self::PortTableFull,
        Self::UdpDenied,
    ];

    /// The reason's code, as logs, metrics and the documentation name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AgentStale => "agent-stale",
            Self::NoCredential => "no-credential",
            Self::UnknownWorkload => "unknown-workload",
            Self::NoListener => "no-listener",
            Self::FlowTableFull => "flow-table-full",
            Self::BoundDevice => "bound-device",
            Self::RefusedRecently => "refused-recently",
            Self::UnsealedSegment => "unsealed-segment",
            Self::CredentialExpired => "credential-expired",
            Self::ForeignNamespace => "foreign-namespace",
            Self::NotSteered => "not-steered",
            Self::PortTableFull => "port-table-full",
            Self::UdpDenied => "udp-denied",
        }
    }

    /// The reason with this value, if there is one.
    pub const fn from_code(code: u32) -> Option<Self> {
        if (code as usize) < Self::ALL.len() {
            Some(Self::ALL[code as usize])
        } else {
            None
        }
    }
}

/// Which way the refused connection went, seen from the workload.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the workload.
    Ingress = 0,
    /// Out of the workload.
    Egress = 1,
}

/// One refusal, as the ring buffer carries it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalEvent {
    /// The workload concerned.
    pub workload: WorkloadId,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at: u64,
    /// A [`KernelRefusal`].
    pub reason: u32,
    /// A [`Direction`].
    pub direction: u32,
    /// The connecting side, unspecified where it is not known yet.
    pub from: Endpoint,
    /// The side connected to.
    pub to: Endpoint,
}

pod!(RefusalEvent);
const _: () = assert!(size_of::<RefusalEvent>() == 64);

#[cfg(test)]
mod tests {
    use super::KernelRefusal;

    #[test]
    fn every_reason_is_found_by_its_value() {
        for (code, reason) in KernelRefusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, code);
            assert_eq!(KernelRefusal::from_code(code as u32), Some(reason));
        }
        assert_eq!(
            KernelRefusal::from_code(KernelRefusal::ALL.len() as u32),
            None
        );
    }
}
