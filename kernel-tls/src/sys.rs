//! The system calls that neither nix nor socket2 has. The only unsafe code of this crate.
#![expect(unsafe_code, reason = "raw system calls, each argued for")]

use std::io::IoSlice;
use std::mem::{self, size_of, size_of_val};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::error::SocketError;

/// `setsockopt` with `bytes` as the option's value.
pub(crate) fn set(
    socket: BorrowedFd<'_>,
    (level, option, name): (libc::c_int, libc::c_int, &'static str),
    bytes: &[u8],
) -> Result<(), SocketError> {
    // SAFETY: the kernel reads at most `bytes.len()` bytes from `bytes`, which is alive here.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            bytes.as_ptr().cast(),
            bytes.len() as libc::socklen_t,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(SocketError::last("setsockopt", name))
    }
}

/// `getsockopt` into `bytes`; how many the kernel wrote.
pub(crate) fn get(
    socket: BorrowedFd<'_>,
    (level, option, name): (libc::c_int, libc::c_int, &'static str),
    bytes: &mut [u8],
) -> Result<usize, SocketError> {
    let mut len = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `bytes`, which has that many.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            bytes.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if failed == 0 {
        Ok((len as usize).min(bytes.len()))
    } else {
        Err(SocketError::last("getsockopt", name))
    }
}

/// Bytes that TCP has taken from the sender and the peer has not acknowledged.
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> Result<u64, SocketError> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ on a socket) writes one int, which `bytes` is.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if failed == 0 {
        Ok(u64::try_from(bytes).unwrap_or(0))
    } else {
        Err(SocketError::last("ioctl", "SIOCOUTQ"))
    }
}

/// `sendmsg` of `parts`, with the record type as ancillary data if there is one; never waits.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    record_type: Option<u8>,
) -> Result<usize, Errno> {
    let mut control = Control::default();
    // SAFETY: a msghdr of zeros is a valid one: no name, no parts, no ancillary data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    if let Some(record_type) = record_type {
        control.header = Header {
            len: (size_of::<Header>() + 1) as _,
            level: libc::SOL_TLS,
            kind: libc::TLS_SET_RECORD_TYPE,
        };
        control.data[0] = record_type;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of_val(&control) as _;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `IoSlice` is documented to have the layout of `iovec`; the kernel only reads through
    // the message, and everything that it points to outlives the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    usize::try_from(sent).map_err(|_| Errno::last())
}

/// `recvmsg` into `buffer`: how many bytes, and the record type if the kernel told one; never waits.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<(usize, Option<u8>), Errno> {
    let mut control = Control::default();
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: as in `send`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes at most `iov_len` bytes into `buffer` and at most `msg_controllen`
    // into `control`; both are exclusively borrowed here and outlive the call.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let got = usize::try_from(got).map_err(|_| Errno::last())?;
    Ok((got, control.record_type(message.msg_controllen as usize)))
}

/// Ancillary data with one byte, as `CMSG_SPACE(1)` lays it out.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Control {
    header: Header,
    data: [u8; size_of::<usize>()],
}

impl Control {
    /// The record type, if the kernel has filled in `len` bytes and they hold one.
    fn record_type(&self, len: usize) -> Option<u8> {
        let Self { header, data } = self;
        let is_whole = len > size_of::<Header>() && header.len > size_of::<Header>();
        (is_whole && header.level == libc::SOL_TLS && header.kind == libc::TLS_GET_RECORD_TYPE)
            .then_some(data[0])
    }
}

/// `struct cmsghdr`, which musl declares with other types of the same layout.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Header {
    len: usize,
    level: libc::c_int,
    kind: libc::c_int,
}

const _: () = assert!(size_of::<Header>() == size_of::<libc::cmsghdr>());

/// An empty `BPF_MAP_TYPE_SOCKHASH` with room for one socket.
///
/// # Errors
/// `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN`.
pub(crate) fn sockhash() -> Result<OwnedFd, Errno> {
    #[repr(C)]
    struct Attributes {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }
    let attributes = Attributes {
        map_type: BPF_MAP_TYPE_SOCKHASH,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
    };
    // SAFETY: BPF_MAP_CREATE reads the attributes, which are plain numbers, and takes those that
    // are not given as zero.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &attributes) }?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `socket` into the map made by [`sockhash`].
pub(crate) fn put_into(map: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Result<(), Errno> {
    #[repr(C)]
    struct Attributes {
        map_fd: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let (key, value) = (0_u32, socket.as_raw_fd());
    let attributes = Attributes {
        map_fd: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: BPF_MAP_UPDATE_ELEM reads a key and a value of four bytes each, as the map was made
    // for, from two locals that outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attributes) }.map(drop)
}

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_TYPE_SOCKHASH: u32 = 18;

/// # Safety
/// `attributes` is what the command expects, and all it points to outlives the call.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> Result<RawFd, Errno> {
    // SAFETY: the caller's; the kernel reads size_of::<T>() bytes and no more.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    Errno::result(result).map(|fd| fd as RawFd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(level: libc::c_int, kind: libc::c_int) -> Control {
        Control {
            header: Header {
                len: size_of::<Header>() + 1,
                level,
                kind,
            },
            data: [22, 0, 0, 0, 0, 0, 0, 0],
        }
    }

    #[test]
    fn only_a_whole_record_type_of_tls_is_one() {
        let whole = size_of::<Control>();
        let good = told(libc::SOL_TLS, libc::TLS_GET_RECORD_TYPE);
        assert_eq!(good.record_type(whole), Some(22));
        assert_eq!(good.record_type(0), None);
        assert_eq!(good.record_type(size_of::<Header>()), None);
        let other = told(libc::SOL_SOCKET, libc::TLS_GET_RECORD_TYPE);
        assert_eq!(other.record_type(whole), None);
        let other = told(libc::SOL_TLS, libc::TLS_SET_RECORD_TYPE);
        assert_eq!(other.record_type(whole), None);
        assert_eq!(Control::default().record_type(whole), None);
    }

    #[test]
    fn ancillary_data_is_laid_out_as_the_macros_do() {
        // SAFETY: CMSG_SPACE and CMSG_LEN only calculate.
        let (space, len) = unsafe { (libc::CMSG_SPACE(1), libc::CMSG_LEN(1)) };
        assert_eq!(size_of::<Control>(), space as usize);
        assert_eq!(size_of::<Header>() + 1, len as usize);
    }

    #[test]
    fn a_socket_without_tls_tells_no_record_type() {
        use std::io::Write as _;
        use std::os::fd::AsFd as _;
        use std::os::unix::net::UnixStream;
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"plain").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receive(far.as_fd(), &mut buffer), Ok((5, None)));
        assert_eq!(receive(far.as_fd(), &mut buffer), Err(Errno::EAGAIN));
        assert_eq!(send(near.as_fd(), &[IoSlice::new(b"x")], None), Ok(1));
    }
}
