//! The descriptors that the service manager passes to a process that it starts (`sd_listen_fds(3)`).
#![expect(unsafe_code, reason = "open descriptors come as numbers")]

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use sd_notify::listen_fds_with_names;

/// Takes them, each with its name; none where there are none for this process. Nobody but the first who
/// calls gets any.
///
/// # Errors
/// Where the variables say something else than what is open.
pub(crate) fn take() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // Has asked each whether it is open, and made it one that programs started from here don't get.
    let passed = listen_fds_with_names()?;
    Ok(passed
        .map(|(descriptor, name)| {
            // SAFETY: the descriptor is open, and LISTEN_PID says that the service manager opened it for
            // this process, as one of those from 3 on; nothing else in here knows it by its number. The
            // flag above sees to it that it gets one owner.
            let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
            (name, descriptor)
        })
        .collect())
}
