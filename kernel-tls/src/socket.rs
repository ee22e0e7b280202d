//! One socket's way to kernel TLS, as types: no key without the protocol, no plaintext without a key.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use nix::errno::Errno;
use socket2::SockRef;
use zeroize::Zeroizing;

use crate::error::SocketError;
use crate::pipe::Pipe;
use crate::traffic_key::{Cipher, LONGEST_INFO, SEQUENCE_LEN, TrafficKey};
use crate::{RECORD_OVERHEAD, sys};

/// The protocol `tls` is attached to a socket. Until a direction gets its key, that direction
/// carries its bytes as they are.
///
/// To be attached before the handshake: a socket whose peer has sent its FIN takes the protocol no
/// more (`ENOTCONN`), and a client that writes and shuts down at once is an ordinary one.
#[derive(Debug)]
pub struct Ulp {
    /// The sending direction.
    pub tx: TxSlot,
    /// The receiving direction.
    pub rx: RxSlot,
}

impl Ulp {
    /// Attaches the protocol to a connected TCP socket.
    ///
    /// # Errors
    /// `ENOENT` where the kernel has no TLS (or its module is not loaded), `ENOTCONN` where the
    /// socket is not connected or the peer has closed, `EINVAL` where it is in a sockmap.
    pub fn attach(socket: &impl AsFd) -> Result<Self, SocketError> {
        sys::set(socket.as_fd(), TCP_ULP, b"tls")?;
        let cookie = cookie(socket)?;
        Ok(Self {
            tx: TxSlot { cookie },
            rx: RxSlot { cookie },
        })
    }
}

/// The sending direction of a socket with the protocol, without a key.
#[derive(Debug)]
pub struct TxSlot {
    cookie: u64,
}

impl TxSlot {
    /// Hands the kernel the key: from now on whatever is written to the socket is sealed.
    ///
    /// Everything that was written before must be complete records.
    ///
    /// # Errors
    /// `EINVAL` where the socket is in a sockmap (6.1.190, 6.12.113 and newer), `ENOENT` where the
    /// cipher is missing. Whether the key is in is then unknown: the connection must be reset.
    pub fn install(self, socket: &impl AsFd, key: &TrafficKey) -> Result<Tx, SocketError> {
        let Self { cookie } = self;
        belongs(cookie, socket)?;
        let taken_before = taken_by_tcp_exactly(socket)?;
        sys::set(socket.as_fd(), TLS_TX, key.as_bytes())?;
        let mut tx = Tx {
            cipher: key.cipher(),
            cookie,
            taken_before,
            first: 0,
            sealed_under_older_keys: 0,
            accepted: 0,
        };
        tx.first = tx.sequence(socket)?;
        Ok(tx)
    }
}

/// The receiving direction of a socket with the protocol, without a key.
#[derive(Debug)]
pub struct RxSlot {
    cookie: u64,
}

impl RxSlot {
    /// Hands the kernel the key: from now on what is read from the socket was opened.
    ///
    /// What was read before must end with a complete record; what the kernel holds already is
    /// opened too.
    ///
    /// # Errors
    /// As for [`TxSlot::install`].
    pub fn install(self, socket: &impl AsFd, key: &TrafficKey) -> Result<Rx, SocketError> {
        let Self { cookie } = self;
        belongs(cookie, socket)?;
        sys::set(socket.as_fd(), TLS_RX, key.as_bytes())?;
        Ok(Rx { cookie })
    }
}

/// The sending direction of a socket whose key the kernel has.
#[derive(Debug)]
pub struct Tx {
    cipher: Cipher,
    cookie: u64,
    /// Bytes that TCP had taken when the key came, by its own count.
    taken_before: u64,
    /// The number of the first record under the key.
    first: u64,
    sealed_under_older_keys: u64,
    /// Bytes of content that the kernel has accepted since.
    accepted: u64,
}

impl Tx {
    /// Sends application data as records of up to 16 KiB; how much was taken. Never waits.
    ///
    /// # Errors
    /// `EAGAIN` where nothing could be taken. `EBADMSG` after a record that could not be opened:
    /// see `SO_ERROR` in socket(7).
    pub fn send(&mut self, socket: &impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let sent = sys::send(socket.as_fd(), parts, None)?;
        self.accepted += sent as u64;
        Ok(sent)
    }

    /// Sends what is in `pipe` as application data, without copying it: how much was taken. Never
    /// waits; the socket must not wait either (`O_NONBLOCK`), and must have `TCP_NODELAY`.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub fn splice(&mut self, socket: &impl AsFd, pipe: &mut Pipe) -> io::Result<usize> {
        let sent = pipe.drain(socket).inspect_err(|_| {
            // Linux 6.1 announces more to TCP than then fits, and TCP waits for it with what it has: for
            // ever, if that fills its buffer. Setting the option anew makes it go.
            let _ = SockRef::from(socket).set_tcp_nodelay(true);
        })?;
        self.accepted += sent as u64;
        Ok(sent)
    }

    /// Sends one record of another type, whole or not at all. Never waits.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub fn send_record(
        &mut self,
        socket: &impl AsFd,
        record_type: RecordType,
        content: &[u8],
    ) -> io::Result<()> {
        let parts = [IoSlice::new(content)];
        let sent = sys::send(socket.as_fd(), &parts, Some(record_type as u8))?;
        self.accepted += sent as u64;
        if sent == content.len() {
            Ok(())
        } else {
            // Seven bytes at most: the kernel takes them in one piece.
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Replaces the key; the `KeyUpdate` that says so must have been sent.
    ///
    /// Minimum kernel version: 6.14.
    ///
    /// # Errors
    /// `EBUSY` on older kernels.
    pub fn replace_key(&mut self, socket: &impl AsFd, key: &TrafficKey) -> Result<(), SocketError> {
        let sealed = self.sealed(socket)?;
        sys::set(socket.as_fd(), TLS_TX, key.as_bytes())?;
        self.sealed_under_older_keys = sealed;
        self.first = self.sequence(socket)?;
        Ok(())
    }

    /// The number of the next record under the present key.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn sequence(&self, socket: &impl AsFd) -> Result<u64, SocketError> {
        // The answer has the key in it.
        let mut info = Zeroizing::new([0; LONGEST_INFO]);
        let info = &mut info[..self.cipher.info_len()];
        let len = sys::get(socket.as_fd(), TLS_TX, info)?;
        match info[..len].last_chunk::<SEQUENCE_LEN>() {
            Some(sequence) if len == info.len() => Ok(u64::from_be_bytes(*sequence)),
            _ => Err(SocketError::new("getsockopt", "TLS_TX", Errno::EBADMSG)),
        }
    }

    /// Whether TCP has all that was sent.
    ///
    /// The kernel accepts a record before TCP has room for all of it, and sends the rest when there
    /// is. What it holds then is lost if the socket is shut down or closed: so not before this says
    /// [`Drained::Yes`]. Costs three system calls.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn drained(&self, socket: &impl AsFd) -> Result<Drained, SocketError> {
        let overhead = self.sealed(socket)? * RECORD_OVERHEAD as u64;
        let expected = self.taken_before + self.accepted + overhead;
        let info = TcpInfo::of(socket)?;
        let taken = info.acknowledged + sys::unacknowledged(socket.as_fd())?;
        Ok(if taken >= expected {
            Drained::Yes
        } else if info.state == TCP_CLOSE {
            Drained::Never
        } else {
            Drained::NotYet
        })
    }

    /// Whether TCP waits for no acknowledgement. Where it does not, and nothing could be sent, the kernel
    /// lacks memory, and no event will say when it has some.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn is_idle(&self, socket: &impl AsFd) -> Result<bool, SocketError> {
        Ok(sys::unacknowledged(socket.as_fd())? == 0)
    }

    /// How many records were sealed here.
    fn sealed(&self, socket: &impl AsFd) -> Result<u64, SocketError> {
        let under_this_key = self.sequence(socket)?.wrapping_sub(self.first);
        Ok(self.sealed_under_older_keys + under_this_key)
    }

    /// Whether this belongs to `socket`.
    pub fn is_of(&self, socket: &impl AsFd) -> bool {
        belongs(self.cookie, socket).is_ok()
    }
}

/// Whether TCP has all that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// It has.
    Yes,
    /// The kernel's TLS still holds a record, or a part of one.
    NotYet,
    /// It holds one, and the connection was reset.
    Never,
}

/// The receiving direction of a socket whose key the kernel has.
#[derive(Debug)]
pub struct Rx {
    cookie: u64,
}

impl Rx {
    /// Reads once into `buffer`, which must hold a whole record ([`crate::MAX_RECORD_DATA`]). Data of
    /// several records may come at once; a record of another type always comes alone. Never waits.
    ///
    /// A short read does not mean that nothing more waits, and no event need come for it: only
    /// `EAGAIN` says that.
    ///
    /// # Errors
    /// `EAGAIN` where no whole record has arrived. `EBADMSG` where a record can't be opened,
    /// `EMSGSIZE` where it is too long, `EINVAL` where its version is wrong. From 6.14 on
    /// `EKEYEXPIRED` after a `KeyUpdate`, until [`Self::replace_key`].
    pub fn receive(&self, socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
        let (len, record_type) = sys::receive(socket.as_fd(), buffer)?;
        Ok(match (len, record_type) {
            (0, None) => Received::End,
            // Data whose type the kernel does not tell can't be, since there was room for it.
            (_, None) => return Err(Errno::EBADMSG.into()),
            (len, Some(DATA)) => Received::Data(len),
            (len, Some(record_type)) => Received::Other { record_type, len },
        })
    }

    /// Moves the data of one record into `pipe`, or as much of it as there is room for, without
    /// copying it. Only where [`crate::Capabilities::splice`] finds that sound. Never waits; the socket
    /// must not wait either (`O_NONBLOCK`).
    ///
    /// # Errors
    /// As for [`Self::receive`]; `EAGAIN` also where the pipe is full.
    pub fn splice(&self, socket: &impl AsFd, pipe: &mut Pipe) -> io::Result<Spliced> {
        match pipe.fill(socket) {
            // The end of the stream, or a record without data, which is gone then.
            Ok(0) => Ok(Spliced::Nothing),
            Ok(len) => Ok(Spliced::Data(len)),
            // A record of another type, or what is no record at all: that the kernel says once.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Spliced::Other),
            Err(error) => Err(error),
        }
    }

    /// Replaces the key after a `KeyUpdate` of the peer.
    ///
    /// Minimum kernel version: 6.14.
    ///
    /// # Errors
    /// `EBUSY` on older kernels.
    pub fn replace_key(&mut self, socket: &impl AsFd, key: &TrafficKey) -> Result<(), SocketError> {
        sys::set(socket.as_fd(), TLS_RX, key.as_bytes())
    }

    /// Whether this belongs to `socket`.
    pub fn is_of(&self, socket: &impl AsFd) -> bool {
        belongs(self.cookie, socket).is_ok()
    }
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// This many bytes of application data.
    Data(usize),
    /// One record of another type, with this many bytes; perhaps none.
    Other {
        /// The content type (RFC 8446 section 5.1).
        record_type: u8,
        /// Its content's length.
        len: usize,
    },
    /// The peer has ended its TCP stream.
    End,
}

/// What one splice brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spliced {
    /// This many bytes of application data.
    Data(usize),
    /// A record without data, or the end of the stream: [`Rx::receive`] then says so.
    Nothing,
    /// Nothing that can be spliced: [`Rx::receive`] gives the record. If it gives none, what came was
    /// none, and the connection is beyond help.
    Other,
}

/// What a record that is not application data holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordType {
    /// An alert.
    Alert = 21,
    /// A handshake message.
    Handshake = 22,
}

fn cookie(socket: &impl AsFd) -> Result<u64, SocketError> {
    SockRef::from(socket).cookie().map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw);
        SocketError::new("getsockopt", "SO_COOKIE", errno)
    })
}

/// A key of one connection never gets onto the socket of another.
fn belongs(wanted: u64, socket: &impl AsFd) -> Result<(), SocketError> {
    if cookie(socket)? == wanted {
        Ok(())
    } else {
        Err(SocketError::new("getsockopt", "SO_COOKIE", Errno::EBADF))
    }
}

/// Bytes that TCP has taken: what the peer has acknowledged, and what it has not.
fn taken_by_tcp_exactly(socket: &impl AsFd) -> Result<u64, SocketError> {
    for _ in 0..ATTEMPTS {
        let before = TcpInfo::of(socket)?.acknowledged;
        let taken = before + sys::unacknowledged(socket.as_fd())?;
        if TcpInfo::of(socket)?.acknowledged == before {
            return Ok(taken);
        }
    }
    Err(SocketError::new("getsockopt", "TCP_INFO", Errno::EAGAIN))
}

/// What TCP says of a socket.
struct TcpInfo {
    state: u8,
    /// Bytes that the peer has acknowledged (`tcpi_bytes_acked`).
    acknowledged: u64,
}

impl TcpInfo {
    fn of(socket: &impl AsFd) -> Result<Self, SocketError> {
        let mut info = [0; BYTES_ACKED + size_of::<u64>()];
        let len = sys::get(socket.as_fd(), TCP_INFO, &mut info)?;
        match info.last_chunk() {
            Some(bytes) if len == info.len() => Ok(Self {
                state: info[0],
                acknowledged: u64::from_ne_bytes(*bytes),
            }),
            _ => Err(SocketError::new("getsockopt", "TCP_INFO", Errno::EBADMSG)),
        }
    }
}

const TCP_ULP: (i32, i32, &str) = (libc::SOL_TCP, libc::TCP_ULP, "TCP_ULP");
const TLS_TX: (i32, i32, &str) = (libc::SOL_TLS, libc::TLS_TX, "TLS_TX");
const TLS_RX: (i32, i32, &str) = (libc::SOL_TLS, libc::TLS_RX, "TLS_RX");
const TCP_INFO: (i32, i32, &str) = (libc::SOL_TCP, libc::TCP_INFO, "TCP_INFO");

/// Where `tcpi_bytes_acked` lies in `struct tcp_info` (linux/tcp.h, since 4.1): behind eight bytes,
/// 24 numbers of four and two of eight.
const BYTES_ACKED: usize = 8 + 24 * 4 + 2 * 8;

/// `tcpi_state`, the first byte: the connection was reset (`include/net/tcp_states.h`).
const TCP_CLOSE: u8 = 7;

/// Acknowledgements come at the pace of the network; the questions take a microsecond.
const ATTEMPTS: usize = 64;

/// Application data.
const DATA: u8 = 23;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn what_tcp_has_taken_is_counted_whether_or_not_it_was_acknowledged() {
        let (mut near, mut far) = pair();
        let before = taken_by_tcp_exactly(&near).unwrap();
        near.write_all(&[7; 10_000]).unwrap();
        assert_eq!(taken_by_tcp_exactly(&near).unwrap(), before + 10_000);
        far.read_exact(&mut [0; 10_000]).unwrap();
        assert_eq!(taken_by_tcp_exactly(&near).unwrap(), before + 10_000);
    }

    #[test]
    fn a_slot_of_one_socket_takes_no_key_for_another() {
        let (near, far) = pair();
        let key = TrafficKey::new(Cipher::Aes128Gcm, &[1; 16], &[2; 12], 0).unwrap();
        let cookie = cookie(&near).unwrap();
        let error = TxSlot { cookie }.install(&far, &key).unwrap_err();
        assert_eq!((error.option, error.errno), ("SO_COOKIE", Errno::EBADF));
        let error = RxSlot { cookie }.install(&far, &key).unwrap_err();
        assert_eq!((error.option, error.errno), ("SO_COOKIE", Errno::EBADF));
    }

    #[test]
    fn a_failed_call_names_itself() {
        let (near, _far) = pair();
        let key = TrafficKey::new(Cipher::Aes128Gcm, &[1; 16], &[2; 12], 0).unwrap();
        let cookie = cookie(&near).unwrap();
        // A socket without the protocol.
        let error = TxSlot { cookie }.install(&near, &key).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("setsockopt(TLS_TX): "), "{text}");
    }
}
