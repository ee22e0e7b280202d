//! What each of the agent's two processes gives up before it does anything for others: rights and system
//! calls that it takes no use of.
//!
//! The agent reads what peers send; no thread of it can call bpf(2). The loader can, and has no connection
//! to anybody.

use std::collections::BTreeMap;

use caps::{CapSet, Capability, CapsHashSet};
use libc::c_long;
use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use thiserror::Error;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Serves connections.
    Agent,
    /// Calls bpf(2).
    Loader,
}

/// Why a process can't be confined.
#[derive(Debug, Error)]
pub enum ConfineError {
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

/// Gives up, for this thread, those that it starts, and for good, what this part takes no use of.
///
/// Minimum kernel version: 3.17.
///
/// # Errors
/// Where something of it can't be given up; the process must not go on then.
pub(crate) fn confine(part: Part) -> Result<(), ConfineError> {
    keep(part.kept())?;
    // Sets `no_new_privs` as well.
    Ok(apply_filter(&filter(part)?)?)
}

/// Keys must not reach a disk by way of a core dump.
pub(crate) fn forbid_core_dumps() -> nix::Result<()> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// Of the capabilities that there are, keeps these.
fn keep(kept: &[Capability]) -> Result<(), ConfineError> {
    let kept: CapsHashSet = kept.iter().copied().collect();
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let held = caps::read(None, set)?;
        caps::set(None, set, &held.intersection(&kept).copied().collect())?;
    }
    Ok(())
}

impl Part {
    fn kept(self) -> &'static [Capability] {
        match self {
            Self::Agent => &KEPT_BY_AGENT,
            Self::Loader => &KEPT_BY_LOADER,
        }
    }

    fn denied(self) -> &'static [c_long] {
        match self {
            Self::Agent => &DENIED_TO_AGENT,
            Self::Loader => &DENIED_TO_LOADER,
        }
    }
}

/// Entering namespaces, sockets in them on any port, the kernel's TLS, files of any owner, and the roots
/// of processes, in which it looks for `resolv.conf`.
const KEPT_BY_AGENT: [Capability; 8] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_RESOURCE,
];

/// Loading and attaching, a bpf file system, entering namespaces and finding them by their processes.
const KEPT_BY_LOADER: [Capability; 8] = [
    Capability::CAP_BPF,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_RESOURCE,
];

/// What is denied fails with `EPERM`; a call of another architecture's ends the process.
fn filter(part: Part) -> Result<BpfProgram, ConfineError> {
    let denied = DENIED.iter().chain(part.denied()).copied();
    let rules: BTreeMap<_, _> = denied
        .flat_map(numbers)
        .map(|number| (number, Vec::new()))
        .collect();
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

/// The kernel's own API for programs, and mounts, of which the loader makes one.
const DENIED_TO_AGENT: [c_long; 2] = [libc::SYS_bpf, libc::SYS_mount];

/// Connections; netlink is what it needs sockets for.
const DENIED_TO_LOADER: [c_long; 4] = [
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_listen,
];

/// Other processes, programs, the kernel itself, its keys, mounts, the machine; and `io_uring`, which makes
/// system calls that no filter sees.
const DENIED: [c_long; 39] = [
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
    use std::{
        io,
        net::{Ipv4Addr, TcpListener, TcpStream},
        thread,
    };

    use nix::{
        errno::Errno,
        mount::{MsFlags, mount},
    };

    use super::{KEPT_BY_AGENT, Part, confine};

    #[test]
    fn what_is_given_up_is_given_up_by_the_thread_and_those_that_it_starts_alone() {
        let confined = || -> io::Result<()> {
            confine(Part::Agent).unwrap();
            thread::spawn(|| {
                let nothing = None::<&str>;
                // Would be ENOENT, as nothing is there.
                let mounted = mount(nothing, "/nowhere", nothing, MsFlags::MS_PRIVATE, nothing);
                assert_eq!(mounted, Err(Errno::EPERM));
                let held = caps::read(None, caps::CapSet::Effective).unwrap();
                assert!(
                    held.iter().all(|held| KEPT_BY_AGENT.contains(held)),
                    "{held:?}"
                );
            })
            .join()
            .unwrap();
            Ok(())
        };
        thread::spawn(confined).join().unwrap().unwrap();
        assert!(!nix::sys::prctl::get_no_new_privs().unwrap());
    }

    #[test]
    fn the_loader_has_no_connections_and_mounts() {
        let confined = || -> io::Result<()> {
            confine(Part::Loader).unwrap();
            let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, 9)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
            let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap_err();
            assert_eq!(listening.kind(), io::ErrorKind::PermissionDenied);
            let nothing = None::<&str>;
            let mounted = mount(nothing, "/nowhere", nothing, MsFlags::MS_PRIVATE, nothing);
            assert_eq!(mounted, Err(Errno::ENOENT));
            Ok(())
        };
        thread::spawn(confined).join().unwrap().unwrap();
    }
}
