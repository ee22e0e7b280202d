//! What resolvers answer a workload's programs, read without a call of bpf(2).

use std::{io, os::fd::OwnedFd};

use ebpf_abi::{DNS_RING_BYTES, LONGEST_DNS_MESSAGE};

use super::LoaderError;
use crate::bpf::{CaughtUp, Ring};

/// Answers of one workload, for as long as this lives: then its programs are overheard no more.
#[derive(Debug)]
pub(crate) struct DnsAnswers {
    ring: Ring,
    _links: Vec<OwnedFd>,
}

impl DnsAnswers {
    /// By the ring buffer, then the links of the programs that fill it.
    pub(super) fn new(given: Vec<OwnedFd>) -> Result<Self, LoaderError> {
        let mut given = given.into_iter();
        let ring = given.next().ok_or(io::ErrorKind::UnexpectedEof.into());
        let size = DNS_RING_BYTES as usize;
        let ring = ring.and_then(|ring| Ring::map(ring, size, LONGEST_DNS_MESSAGE));
        Ok(Self {
            ring: ring.map_err(LoaderError::Ring)?,
            _links: given.collect(),
        })
    }

    /// A descriptor that becomes readable when an answer waits.
    pub(crate) fn events(&self) -> io::Result<OwnedFd> {
        self.ring.events()
    }

    /// Hands out the messages that are there.
    pub(crate) fn drain(&mut self, each: impl FnMut(&[u8])) -> CaughtUp {
        self.ring.drain(each)
    }
}
