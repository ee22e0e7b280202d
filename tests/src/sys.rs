//! The system calls that the safe crates do not wrap; the only unsafe code of the testbed.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sched::{CloneFlags, setns};

/// Makes the child enter a network namespace and a cgroup before it becomes the program, so that
/// its first socket already belongs to both.
///
/// `cgroup_procs` is the cgroup's `cgroup.procs`, open for writing.
pub(crate) fn enter_before_exec(
    command: &mut Command,
    netns: OwnedFd,
    cgroup_procs: Option<OwnedFd>,
) {
    let enter = move || -> io::Result<()> {
        setns(&netns, CloneFlags::CLONE_NEWNET)?;
        if let Some(procs) = &cgroup_procs {
            nix::unistd::write(procs, b"0")?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls on descriptors that it
    // owns; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(enter) };
}

/// Gives the child these descriptors, as those from 3 on. To be called last: what the child has at those
/// places before is gone then, the pipe by which it would say that the program can't be started as well.
pub(crate) fn pass_before_exec(command: &mut Command, descriptors: &[OwnedFd]) -> nix::Result<()> {
    let first: RawFd = 3;
    let behind = (first..).nth(descriptors.len()).unwrap_or(first);
    let descriptors = descriptors
        .iter()
        .map(|descriptor| {
            // Out of the way of the others' places.
            let moved = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(behind))?;
            // SAFETY: the call has made it just now; nobody else owns it.
            Ok(unsafe { OwnedFd::from_raw_fd(moved) })
        })
        .collect::<nix::Result<Vec<_>>>()?;
    let place = move || -> io::Result<()> {
        for (descriptor, place) in descriptors.iter().zip(first..) {
            // SAFETY: two numbers go in; what was open at `place` belongs to nothing that runs in the
            // child before it becomes the program.
            if unsafe { libc::dup2(descriptor.as_raw_fd(), place) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls on descriptors that it owns; it
    // neither allocates nor takes a lock.
    unsafe { command.pre_exec(place) };
    Ok(())
}

/// Asks for a socket to be let past the guard, by the option that the agent has for its own.
pub fn permit(socket: &socket2::Socket, token: &[u8]) -> io::Result<()> {
    const SOL_SEALWIRE: libc::c_int = 0x5ea1;
    const PERMIT: libc::c_int = 1;
    // SAFETY: the pointer and length are those of a live slice, which the kernel reads only.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            SOL_SEALWIRE,
            PERMIT,
            token.as_ptr().cast(),
            token.len() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Leaves out of a packet socket the frames that this namespace sends, so that a frame crossing a
/// bridge is seen once. Minimum kernel version: 4.20.
pub(crate) fn ignore_outgoing(socket: &socket2::Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes a c_int, and the pointer and length are those of a live one.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How many frames the kernel could not queue on a packet socket since the last call.
pub(crate) fn dropped_frames(socket: &socket2::Socket) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: PACKET_STATISTICS fills a tpacket_stats, and `length` is the size of the live one.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if done == 0 {
        Ok(statistics.tp_drops)
    } else {
        Err(io::Error::last_os_error())
    }
}
