//! What a thread that reads what peers send gives up before it reads a byte of it: rights and system
//! calls that serving connections takes no use of.
//!
//! A thread, and those that it starts, not the process: the control thread still loads eBPF programs. It
//! keeps what a fault in a worker's own course may do small, and is no border against one that writes to
//! the memory of other threads.

use std::{collections::BTreeMap, io};

use caps::{CapSet, Capability, CapsHashSet};
use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use thiserror::Error;

/// Whether the thread calls bpf(2) for the connections that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bpf {
    /// It asks by socket options only.
    Forbidden,
    /// It accelerates local hops, for which sockets are put into a map.
    Needed,
}

/// Why a thread can't be confined.
#[derive(Debug, Error)]
pub(crate) enum ConfineError {
    /// There is no filter for this machine.
    #[error("making the filter of system calls: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error("the kernel takes no filter of system calls: {0}")]
    Seccomp(#[from] seccompiler::Error),
    /// The kernel does not take rights away.
    #[error("giving up capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
}

impl From<ConfineError> for io::Error {
    fn from(error: ConfineError) -> Self {
        Self::other(error)
    }
}

/// Gives up, for this thread and for good, what serving connections takes no use of.
///
/// Minimum kernel version: 3.17.
///
/// # Errors
/// Where something of it can't be given up; the thread must not go on then.
pub(crate) fn confine(bpf: Bpf) -> Result<(), ConfineError> {
    keep(if bpf == Bpf::Needed {
        &[Capability::CAP_BPF]
    } else {
        &[]
    })?;
    // Sets `no_new_privs` as well.
    Ok(apply_filter(&filter(bpf)?)?)
}

/// Keeps of the capabilities that there are those below, and `more`.
fn keep(more: &[Capability]) -> Result<(), ConfineError> {
    let kept: CapsHashSet = KEPT.iter().chain(more).copied().collect();
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let held = caps::read(None, set)?;
        caps::set(None, set, &held.intersection(&kept).copied().collect())?;
    }
    Ok(())
}

/// Entering namespaces, sockets in them on any port, the kernel's TLS, files of any owner, and the roots
/// of processes, in which they look for `resolv.conf`.
const KEPT: [Capability; 8] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_RESOURCE,
];

/// What is denied fails with `EPERM`; a call of another architecture's ends the process.
fn filter(bpf: Bpf) -> Result<BpfProgram, ConfineError> {
    let more = (bpf == Bpf::Forbidden).then_some(libc::SYS_bpf);
    let denied = DENIED.into_iter().chain(more).flat_map(numbers);
    let rules: BTreeMap<_, _> = denied.map(|number| (number, Vec::new())).collect();
    let errno = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, ARCH)?;
    Ok(filter.try_into()?)
}

/// On `x86_64` every call has a second number, by the x32 ABI, for which a filter sees the same
/// architecture.
#[cfg(target_arch = "x86_64")]
fn numbers(call: c_long) -> [c_long; 2] {
    const X32: c_long = 0x4000_0000;
    [call, call | X32]
}

#[cfg(not(target_arch = "x86_64"))]
fn numbers(call: c_long) -> [c_long; 1] {
    [call]
}

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// Other processes, programs, the kernel itself, its keys, mounts, the machine; and `io_uring`, which makes
/// system calls that no filter sees.
const DENIED: [c_long; 40] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

#[cfg(test)]
mod tests {
    use std::{io, thread};

    use nix::{
        errno::Errno,
        mount::{MsFlags, mount},
    };

    use super::{Bpf, KEPT, confine};

    #[test]
    fn what_is_given_up_is_given_up_by_the_thread_and_those_that_it_starts_alone() {
        let confined = || -> io::Result<()> {
            confine(Bpf::Forbidden)?;
            thread::spawn(|| {
                let nothing = None::<&str>;
                // Would be ENOENT, as nothing is there.
                let mounted = mount(nothing, "/nowhere", nothing, MsFlags::MS_PRIVATE, nothing);
                assert_eq!(mounted, Err(Errno::EPERM));
                let held = caps::read(None, caps::CapSet::Effective).unwrap();
                assert!(held.iter().all(|held| KEPT.contains(held)), "{held:?}");
            })
            .join()
            .unwrap();
            Ok(())
        };
        thread::spawn(confined).join().unwrap().unwrap();
        assert!(!nix::sys::prctl::get_no_new_privs().unwrap());
    }

    #[test]
    fn both_filters_are_accepted_one_after_the_other() {
        let twice = || -> io::Result<()> {
            confine(Bpf::Needed)?;
            Ok(confine(Bpf::Forbidden)?)
        };
        thread::spawn(twice).join().unwrap().unwrap();
    }
}
