use crate::{Endpoint, WorkloadId, pod};

/// Where programs of a workload listen, in a network namespace that it shares with others. The value
/// is the number of their sockets that do; zero is nobody.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramPort {
    /// The workload.
    pub workload: WorkloadId,
    /// The address and port; unspecified (`0.0.0.0` or `::`) for every address of the family.
    pub at: Endpoint,
    /// Always zero.
    pub reserved: u32,
}

pod!(ProgramPort);
const _: () = assert!(size_of::<ProgramPort>() == 32);

impl ProgramPort {
    /// The key of this address and port.
    #[inline(always)]
    pub const fn new(workload: WorkloadId, at: Endpoint) -> Self {
        Self {
            workload,
            at,
            reserved: 0,
        }
    }
}

/// A connection from one program of a workload to another, in a network namespace that it shares with
/// others.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InnerFlow {
    /// The workload.
    pub workload: WorkloadId,
    /// The end that opened it.
    pub from: Endpoint,
    /// The other end.
    pub to: Endpoint,
}

pod!(InnerFlow);
const _: () = assert!(size_of::<InnerFlow>() == 48);
