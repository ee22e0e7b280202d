//! One request to the kernel by netlink(7), and its answer.

use std::{io, os::fd::AsRawFd as _};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// Sends a request, with its header, in the calling thread's namespace, and passes each message of the
/// answer, by its type and without its header, to `take`, until the answer ends.
pub(crate) fn exchange(
    protocol: SockProtocol,
    request: &[u8],
    mut take: impl FnMut(u16, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    send(socket.as_raw_fd(), request, MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
        let mut rest = buffer.get(..length).ok_or_else(malformed)?;
        while !rest.is_empty() {
            let (kind, message, after) = split_message(rest).ok_or_else(malformed)?;
            rest = after;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let code = u32_at(message, 0).ok_or_else(malformed)?.cast_signed();
                    return match code {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => take(kind, message)?,
            }
        }
    }
}

/// The first message's type and content, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let kind = u16_at(bytes, 4)?;
    let message = bytes.get(HEADER..length)?;
    let next = length.next_multiple_of(ALIGNMENT).min(bytes.len());
    Some((kind, message, &bytes[next..]))
}

/// The attributes (`struct nlattr`) in `bytes`, up to the first that is not whole.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let attribute = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(NLA_HEADER..length)?;
        let next = length.next_multiple_of(ALIGNMENT).min(bytes.len());
        bytes = &bytes[next..];
        Some((attribute, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset + 8)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

/// Of an answer that is none.
pub(crate) fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel's answer is not understood",
    )
}

/// The kernel puts at most this much into one datagram of a listing.
const BUFFER: usize = 32 << 10;
/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
const NLA_HEADER: usize = 4;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Of messages and attributes.
const ALIGNMENT: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_longer_than_its_datagram_is_not_taken() {
        let mut datagram = 16_u32.to_ne_bytes().to_vec();
        datagram.resize(16, 0);
        assert!(split_message(&datagram).is_some());
        datagram[..4].copy_from_slice(&17_u32.to_ne_bytes());
        assert_eq!(split_message(&datagram), None);
        datagram[..4].copy_from_slice(&3_u32.to_ne_bytes());
        assert_eq!(split_message(&datagram), None);
    }
}
