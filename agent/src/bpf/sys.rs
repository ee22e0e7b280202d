//! The bpf(2) and socket calls that aya 0.14 does not offer. With `ring`, the only unsafe code of the agent.
#![expect(unsafe_code, reason = "raw system calls, each argued for")]

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use ebpf_abi::{SOL_SEALWIRE, SocketOption};

/// Opens the object pinned at `path`.
///
/// # Errors
/// `ENOENT` where nothing is pinned; `EACCES` where it is not ours.
pub(super) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: BPF_OBJ_GET reads the attributes and the NUL-terminated path, both alive here.
    let fd = unsafe { bpf(BPF_OBJ_GET, &attributes) }?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program behind `link` atomically: no moment without one.
///
/// Minimum kernel version: 5.7 (cgroup), 5.9 (`sk_lookup`), 6.6 (tcx).
///
/// # Errors
/// `ENOLINK` where what the link was attached to is gone.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link_fd: RawFd,
        new_program_fd: RawFd,
        flags: u32,
        old_program_fd: u32,
    }
    let attributes = Attributes {
        link_fd: link.as_raw_fd(),
        new_program_fd: program.as_raw_fd(),
        flags: 0,
        old_program_fd: 0,
    };
    // SAFETY: BPF_LINK_UPDATE reads the attributes only; both descriptors are borrowed and open.
    unsafe { bpf(BPF_LINK_UPDATE, &attributes) }.map(drop)
}

/// A hook at a cgroup, as the kernel numbers it.
#[derive(Clone, Copy, Debug)]
pub(super) enum CgroupHook {
    /// `BPF_CGROUP_INET_INGRESS`.
    Ingress = 0,
    /// `BPF_CGROUP_INET_EGRESS`.
    Egress = 1,
    /// `BPF_CGROUP_GETSOCKOPT`.
    GetOption = 21,
    /// `BPF_CGROUP_SETSOCKOPT`.
    SetOption = 22,
}

/// Attaches `program` to `cgroup`, beside others, for as long as the link or a pin of it is there.
///
/// Minimum kernel version: 5.7.
pub(super) fn link_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    hook: CgroupHook,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program_fd: RawFd,
        target_fd: RawFd,
        attach_type: u32,
        flags: u32,
    }
    let attributes = Attributes {
        program_fd: program.as_raw_fd(),
        target_fd: cgroup.as_raw_fd(),
        attach_type: hook as u32,
        flags: 0,
    };
    // SAFETY: BPF_LINK_CREATE reads the attributes only; both descriptors are borrowed and open.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &attributes) }?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins `object` at `path`, which must not be there yet.
///
/// Minimum kernel version: 4.4.
pub(super) fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        pathname: u64,
        bpf_fd: RawFd,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes {
        pathname: path.as_ptr() as u64,
        bpf_fd: object.as_raw_fd(),
        file_flags: 0,
    };
    // SAFETY: BPF_OBJ_PIN reads the attributes and the NUL-terminated path, both alive here; the
    // descriptor is borrowed and open.
    unsafe { bpf(BPF_OBJ_PIN, &attributes) }.map(drop)
}

/// Attaches `program` to a socket map, for as long as the map exists: sockets that enter it later
/// send by the program. Replaces an earlier one.
///
/// Minimum kernel version: 4.17 (`BPF_SK_MSG_VERDICT`).
pub(super) fn attach_sk_msg(program: &impl AsFd, map: &impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        target_fd: RawFd,
        program_fd: RawFd,
        attach_type: u32,
        flags: u32,
    }
    const BPF_SK_MSG_VERDICT: u32 = 7;
    let attributes = Attributes {
        target_fd: map.as_fd().as_raw_fd(),
        program_fd: program.as_fd().as_raw_fd(),
        attach_type: BPF_SK_MSG_VERDICT,
        flags: 0,
    };
    // SAFETY: BPF_PROG_ATTACH reads the attributes only; both descriptors are borrowed and open.
    unsafe { bpf(BPF_PROG_ATTACH, &attributes) }.map(drop)
}

/// Runs `program`, of the kind of traffic control, once on this thread and in its network namespace,
/// with `packet` as its packet; what it returns.
///
/// Minimum kernel version: 4.12 (`BPF_PROG_TEST_RUN`).
pub(super) fn run_on_packet<T: aya::Pod>(program: &impl AsFd, packet: &T) -> io::Result<u32> {
    #[repr(C)]
    struct Attributes {
        program_fd: RawFd,
        returned: u32,
        packet_length: u32,
        result_length: u32,
        packet: u64,
        result: u64,
        repeat: u32,
        nanoseconds: u32,
    }
    let mut attributes = Attributes {
        program_fd: program.as_fd().as_raw_fd(),
        returned: 0,
        packet_length: size_of::<T>() as u32,
        result_length: 0,
        packet: std::ptr::from_ref(packet) as u64,
        result: 0,
        repeat: 1,
        nanoseconds: 0,
    };
    // SAFETY: BPF_PROG_TEST_RUN reads the packet, which is alive here and plain bytes, and writes to
    // the attributes, which nothing else looks at meanwhile; without `result` it writes nothing else.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(attributes.returned)
    }
}

/// Whether something has taken over the protocol of a TCP socket: TLS in the kernel, say.
///
/// Minimum kernel version: 4.13 (`TCP_ULP`).
pub(super) fn has_upper_layer(socket: &impl AsFd) -> io::Result<bool> {
    // `TCP_ULP_NAME_MAX` of the kernel.
    let mut name = [0_u8; 16];
    let mut length = name.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `name`, which has that many.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_ULP,
            name.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if failed == 0 {
        Ok(length > 0)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets one of our own options on `socket`, for the programs on the agent's cgroup.
///
/// Minimum kernel version: 5.3 (`BPF_CGROUP_SETSOCKOPT`).
///
/// # Errors
/// What the kernel says of options that it doesn't know, where no program answers.
pub(crate) fn set_option<T: aya::Pod>(
    socket: &impl AsFd,
    option: SocketOption,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads size_of::<T>() bytes of `value`, which are plain and alive here.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            SOL_SEALWIRE,
            option as libc::c_int,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What the programs on the agent's cgroup answer to one of our own options of `socket`.
///
/// Minimum kernel version: 5.3 (`BPF_CGROUP_GETSOCKOPT`).
///
/// # Errors
/// As [`set_option`]; `EPROTO` where the answer is of another size.
pub(crate) fn option<T: aya::Pod + Default>(
    socket: &impl AsFd,
    option: SocketOption,
) -> io::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`, which has that many and can be
    // any bytes.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            SOL_SEALWIRE,
            option as libc::c_int,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if failed != 0 {
        Err(io::Error::last_os_error())
    } else if length as usize == size_of::<T>() {
        Ok(value)
    } else {
        Err(io::Error::from_raw_os_error(libc::EPROTO))
    }
}

/// The cookie of the network namespace that `socket` belongs to.
///
/// Minimum kernel version: 5.14 (`SO_NETNS_COOKIE`).
pub fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `cookie`, which has that many.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The network namespace that `socket` is in.
///
/// Minimum kernel version: 4.10 (`SIOCGSKNS`).
pub(super) fn netns_of(socket: &impl AsFd) -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: the call takes no argument and writes nothing.
    let fd = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// # Safety
/// `attributes` is what the command expects, and all it points to outlives the call.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the caller's; the kernel reads size_of::<T>() bytes and no more.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as RawFd)
    }
}
