//! Programs that overhear what resolvers answer a workload's programs, at its cgroup.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use aya::maps::Map;
use ebpf_abi::WorkloadId;

use super::{BpfError, Steering, Tenancy, attach::attach_unpinned, sys::CgroupHook};

/// The maps that only an instance has whose answers are overheard.
pub(super) const MAPS: [&str; 3] = [QUESTIONS, "DNS_MESSAGE", ANSWERS];

/// Where the answers of one workload are put, for as long as the links are open. Nothing is pinned, as
/// what is known of names dies with the agent as well.
#[derive(Debug)]
pub(crate) struct Overheard {
    /// The ring buffer, of [`ebpf_abi::DNS_RING_BYTES`].
    pub(crate) ring: OwnedFd,
    /// Of the programs that see answers and questions.
    pub(crate) links: [OwnedFd; 2],
}

/// Begins to overhear what the programs in `cgroup` are answered.
///
/// # Errors
/// Where the kernel refuses the programs or has no memory.
pub(crate) fn overhear(
    steering: &Steering,
    workload: WorkloadId,
    cgroup: BorrowedFd<'_>,
    tenancy: Tenancy,
) -> Result<Overheard, BpfError> {
    let mut object = steering.load_to_overhear(workload, tenancy)?;
    let ring = match object.map(ANSWERS) {
        Some(Map::RingBuf(map)) => map.fd().as_fd().try_clone_to_owned(),
        _ => return Err(BpfError::Missing(ANSWERS)),
    };
    let ring = ring.map_err(BpfError::Ring)?;
    // In this order, so that no question is noted whose answer is not heard.
    let answers = attach_unpinned(&mut object, "dns_answer", cgroup, CgroupHook::Ingress)?;
    let questions = attach_unpinned(&mut object, "dns_question", cgroup, CgroupHook::Egress)?;
    Ok(Overheard {
        ring,
        links: [answers, questions],
    })
}

const QUESTIONS: &str = "DNS_QUESTIONS";
const ANSWERS: &str = "DNS_ANSWERS";
