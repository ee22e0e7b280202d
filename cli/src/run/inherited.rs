//! Sockets that this process was given, by socket activation say: they are not the workload's, so the
//! program would use them in clear.

use std::fs;

use anyhow::anyhow;
use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname};

use crate::failure::Failure;

/// Refuses to hand any of them to the program.
pub(super) fn refuse() -> Result<(), Failure> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(descriptor) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // What is no socket has no name.
        let Ok(address) = getsockname::<SockaddrStorage>(descriptor) else {
            continue;
        };
        if matches!(
            address.family(),
            Some(AddressFamily::Inet | AddressFamily::Inet6)
        ) {
            return Err(Failure::Usage(anyhow!(
                "descriptor {descriptor} is a socket ({address}) that was made outside of the workload, so \
                 that nothing would protect it: close it; Sealwire can't protect a program that is given its \
                 sockets (socket activation)"
            )));
        }
    }
    Ok(())
}
