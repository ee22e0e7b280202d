//! Waiting for a descriptor that tokio has no type of its own for.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// The descriptor, to be awaited until it is readable.
#[expect(
    deprecated,
    reason = "unsound for types that may close or change their descriptor, which OwnedFd does not; \
              its successor is an unsafe function"
)]
pub(crate) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
