//! Refusals of the kernel side one by one, read without a call of bpf(2).

use std::{io, os::fd::OwnedFd};

use ebpf_abi::{Endpoint, RefusalEvent, WorkloadId};

use super::{Loader, LoaderError, protocol};
use crate::bpf::Ring;

/// The queue of refusals, which has one reader.
#[derive(Debug)]
pub(crate) struct Refusals(Ring);

impl Refusals {
    pub(super) fn open(loader: &Loader) -> Result<Self, LoaderError> {
        let (bytes, gives) = loader.call_with(protocol::Refusals {}, &[])?;
        let ring = gives.into_iter().next();
        let ring = ring.ok_or(io::ErrorKind::UnexpectedEof.into());
        ring.and_then(|ring| Ring::map(ring, bytes, size_of::<RefusalEvent>()))
            .map(Self)
            .map_err(LoaderError::Ring)
    }

    /// A descriptor that becomes readable when a refusal waits.
    pub(crate) fn events(&self) -> io::Result<OwnedFd> {
        self.0.events()
    }

    /// Hands out those that have not been read.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(RefusalEvent)) {
        self.0.drain(|bytes| {
            if let Ok(bytes) = bytes.try_into() {
                each(refusal_from_bytes(bytes));
            }
        });
    }
}

fn refusal_from_bytes(bytes: &[u8; size_of::<RefusalEvent>()]) -> RefusalEvent {
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let endpoint = |at: usize| Endpoint {
        ip: [word(at), word(at + 4), word(at + 8), word(at + 12)],
        port: word(at + 16),
    };
    RefusalEvent {
        workload: WorkloadId(long(0)),
        at: long(8),
        reason: word(16),
        direction: word(20),
        from: endpoint(24),
        to: endpoint(44),
    }
}
