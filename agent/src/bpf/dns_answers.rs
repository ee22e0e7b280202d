//! What resolvers answer a workload's programs, overheard at its cgroup.

use std::{
    fmt, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{maps::Map, programs::links::FdLink};
use ebpf_abi::{DNS_RING_BYTES, LONGEST_DNS_MESSAGE, WorkloadId};

use super::{
    BpfError, Steering, Tenancy,
    attach::{Target, attach_unpinned},
    open,
    ring::{CaughtUp, Ring},
};

/// The maps that only an instance has whose answers are overheard.
pub(super) const MAPS: [&str; 3] = [QUESTIONS, "DNS_MESSAGE", ANSWERS];

/// Answers of one workload, for as long as this lives: then its programs are overheard no more. Nothing
/// is pinned, as what is known of names dies with the agent as well.
pub struct DnsAnswers {
    ring: Ring,
    _links: [FdLink; 2],
}

impl DnsAnswers {
    /// Begins to overhear what the programs in `cgroup` are answered.
    ///
    /// # Errors
    /// Where the kernel refuses the programs or has no memory.
    pub fn overhear(
        steering: &Steering,
        workload: WorkloadId,
        cgroup: &Path,
        tenancy: Tenancy,
    ) -> Result<Self, BpfError> {
        let mut object = steering.load_to_overhear(workload, tenancy)?;
        let answers = match object.map(ANSWERS) {
            Some(Map::RingBuf(map)) => map.fd().as_fd().try_clone_to_owned(),
            _ => return Err(BpfError::Missing(ANSWERS)),
        };
        let size = DNS_RING_BYTES as usize;
        let ring = answers.and_then(|map| Ring::map(map, size, LONGEST_DNS_MESSAGE));
        let ring = ring.map_err(BpfError::Ring)?;
        let cgroup = open(cgroup)?;
        // In this order, so that no question is noted whose answer is not heard.
        let targets = [
            ("dns_answer", Target::CgroupIngress(cgroup.as_fd())),
            ("dns_question", Target::Cgroup(cgroup.as_fd())),
        ];
        let [answers, questions] =
            targets.map(|(program, target)| attach_unpinned(&mut object, program, target));
        Ok(Self {
            ring,
            _links: [answers?, questions?],
        })
    }

    /// A descriptor that becomes readable when an answer waits.
    pub fn events(&self) -> io::Result<OwnedFd> {
        self.ring.events()
    }

    /// Hands out the messages that are there.
    pub fn drain(&mut self, each: impl FnMut(&[u8])) -> CaughtUp {
        self.ring.drain(each)
    }
}

impl fmt::Debug for DnsAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsAnswers").finish_non_exhaustive()
    }
}

const QUESTIONS: &str = "DNS_QUESTIONS";
const ANSWERS: &str = "DNS_ANSWERS";
