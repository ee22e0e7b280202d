//! Tries what the kernel can do, with real keys on loopback connections, and checks what comes out
//! with a second implementation.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::capabilities::{Ability, Capabilities, Module, Why};
use crate::error::SocketError;
use crate::known_bad::{Fault, Known};
use crate::socket::{Received, RecordType, Rx, Tx, Ulp};
use crate::traffic_key::{Cipher, IV_LEN, TrafficKey};
use crate::version::KernelVersion;
use crate::{MAX_RECORD_DATA, RECORD_OVERHEAD, sys};

impl Capabilities {
    /// Finds out what the kernel that runs can be trusted with. Takes some milliseconds; opens
    /// loopback connections in the network namespace of the thread.
    ///
    /// A kernel with a known fault is not tried: the attempt could do what the fault does.
    pub fn probe() -> Self {
        let version = KernelVersion::running();
        if let Err(why) = attachable().and_then(|()| excludes_sockmaps(version)) {
            return Self::nothing(version, &why);
        }
        Self {
            version,
            ulp: Ok(()),
            tx: Cipher::ALL.map(tx),
            rx: Cipher::ALL.map(rx),
            rekey: rekey(Cipher::Aes128Gcm),
            splice: Why::fault(Fault::SpliceLosesBytes, version),
        }
    }
}

fn attachable() -> Ability {
    let (near, _far) = pair()?;
    match Ulp::attach(&near) {
        Ok(_) => Ok(()),
        Err(SocketError {
            errno: Errno::ENOENT,
            ..
        }) => Err(Why::NoConfigTls {
            module: Module::find(),
        }),
        Err(error) => Err(Why::Socket(error)),
    }
}

/// Whether no socket can have TLS and be in a sockmap, whichever comes first.
fn excludes_sockmaps(version: Option<KernelVersion>) -> Ability {
    let known = version.map(|version| Fault::TlsInSockmap.in_version(version));
    match known {
        Some(Known::Fixed) => Ok(()),
        Some(Known::Bad { .. }) => Why::fault(Fault::TlsInSockmap, version),
        Some(Known::Nothing) | None => refuses_keys_in_sockmap(),
    }
}

/// Puts an empty connection of our own into a map of our own, and asks for TLS on it. No program is
/// attached to the map and no byte is sent.
fn refuses_keys_in_sockmap() -> Ability {
    let (near, _far) = pair()?;
    let map = sys::sockhash().map_err(Why::SockmapUnknown)?;
    sys::put_into(map.as_fd(), near.as_fd()).map_err(Why::SockmapUnknown)?;
    let key = Secret::first(Cipher::Aes128Gcm).traffic_key()?;
    let Ok(ulp) = Ulp::attach(&near) else {
        return Ok(());
    };
    match (ulp.tx.install(&near, &key), ulp.rx.install(&near, &key)) {
        (Err(_), Err(_)) => Ok(()),
        _ => Err(Why::AcceptsTlsInSockmap),
    }
}

fn tx(cipher: Cipher) -> Ability {
    let (near, mut far) = pair()?;
    let secret = Secret::first(cipher);
    let mut tx = install_tx(&near, &secret)?;
    tx.send(&near, &[IoSlice::new(TEXT)]).map_err(failed)?;
    let record = read_record(&mut far)?;
    expect(secret.open(0, record) == Some((DATA, TEXT.to_vec())))
}

fn rx(cipher: Cipher) -> Ability {
    let (near, mut far) = pair()?;
    let secret = Secret::first(cipher);
    let rx = install_rx(&near, &secret)?;
    let record = secret.seal(0, DATA, TEXT).ok_or(Why::WrongBytes)?;
    far.write_all(&record).map_err(failed)?;
    receive(&near, &rx, &(DATA, TEXT))
}

fn rekey(cipher: Cipher) -> Ability {
    let (first, second) = (Secret::first(cipher), Secret::second(cipher));

    let (near, mut far) = pair()?;
    let mut tx = install_tx(&near, &first)?;
    tx.send_record(&near, RecordType::Handshake, &KEY_UPDATE)
        .map_err(failed)?;
    read_record(&mut far)?;
    tx.replace_key(&near, &second.traffic_key()?)
        .map_err(Why::NoRekey)?;
    tx.send(&near, &[IoSlice::new(TEXT)]).map_err(failed)?;
    expect(second.open(0, read_record(&mut far)?) == Some((DATA, TEXT.to_vec())))?;

    let (near, mut far) = pair()?;
    let mut rx = install_rx(&near, &first)?;
    let update = first.seal(0, HANDSHAKE, &KEY_UPDATE);
    let data = second.seal(0, DATA, TEXT);
    far.write_all(&update.ok_or(Why::WrongBytes)?)
        .map_err(failed)?;
    receive(&near, &rx, &(HANDSHAKE, &KEY_UPDATE[..]))?;
    rx.replace_key(&near, &second.traffic_key()?)
        .map_err(Why::NoRekey)?;
    far.write_all(&data.ok_or(Why::WrongBytes)?)
        .map_err(failed)?;
    receive(&near, &rx, &(DATA, TEXT))
}

fn install_tx(socket: &TcpStream, secret: &Secret) -> Result<Tx, Why> {
    let ulp = Ulp::attach(socket).map_err(Why::Socket)?;
    let key = secret.traffic_key()?;
    ulp.tx
        .install(socket, &key)
        .map_err(|error| no_cipher(key.cipher(), error))
}

fn install_rx(socket: &TcpStream, secret: &Secret) -> Result<Rx, Why> {
    let ulp = Ulp::attach(socket).map_err(Why::Socket)?;
    let key = secret.traffic_key()?;
    ulp.rx
        .install(socket, &key)
        .map_err(|error| no_cipher(key.cipher(), error))
}

fn no_cipher(cipher: Cipher, error: SocketError) -> Why {
    match error.errno {
        Errno::ENOENT | Errno::EINVAL => Why::NoCipher { cipher, error },
        _ => Why::Socket(error),
    }
}

/// Receives one record of this type and content.
fn receive(socket: &TcpStream, rx: &Rx, expected: &(u8, &[u8])) -> Ability {
    let mut waited = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
    poll(&mut waited, patience)
        .map_err(|errno| Why::Socket(SocketError::new("poll", "a record", errno)))?;
    let mut buffer = vec![0; MAX_RECORD_DATA];
    let (record_type, len) = match rx.receive(socket, &mut buffer).map_err(failed)? {
        Received::Data(len) => (DATA, len),
        Received::Other { record_type, len } => (record_type, len),
        Received::End => return Err(Why::WrongBytes),
    };
    expect((record_type, &buffer[..len]) == *expected)
}

/// One record as it came off the wire, and nothing behind it.
fn read_record(socket: &mut TcpStream) -> Result<Vec<u8>, Why> {
    let mut record = vec![0; 2 * MAX_RECORD_DATA];
    let mut filled = 0;
    loop {
        match socket.read(&mut record[filled..]).map_err(failed)? {
            0 => return Err(Why::WrongBytes),
            len => filled += len,
        }
        let len = match record[..filled] {
            [_, _, _, high, low, ..] => HEADER_LEN + usize::from(u16::from_be_bytes([high, low])),
            _ => continue,
        };
        if filled >= len {
            record.truncate(filled);
            return Ok(record);
        }
    }
}

fn expect(right: bool) -> Ability {
    if right { Ok(()) } else { Err(Why::WrongBytes) }
}

/// Two ends of a connection whose reads and writes give up after [`PATIENCE`].
fn pair() -> Result<(TcpStream, TcpStream), Why> {
    let connect = |address: SocketAddr| {
        let listener = TcpListener::bind(address)?;
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
        }
        Ok((near, far))
    };
    connect((Ipv4Addr::LOCALHOST, 0).into())
        .or_else(|_| connect((Ipv6Addr::LOCALHOST, 0).into()))
        .map_err(|error: io::Error| Why::NoLoopback(errno(&error)))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err wants"
)]
fn failed(error: io::Error) -> Why {
    Why::Socket(SocketError::new(
        "sendmsg/recvmsg",
        "a record",
        errno(&error),
    ))
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// A key that protects nothing but the probe.
struct Secret {
    cipher: Cipher,
    fill: u8,
}

impl Secret {
    fn first(cipher: Cipher) -> Self {
        Self { cipher, fill: 0x5a }
    }

    fn second(cipher: Cipher) -> Self {
        Self { cipher, fill: 0xa5 }
    }

    fn traffic_key(&self) -> Result<TrafficKey, Why> {
        let key = vec![self.fill; self.cipher.key_len()];
        TrafficKey::new(self.cipher, &key, &[self.fill; IV_LEN], 0).map_err(Why::Socket)
    }

    /// RFC 8446 section 5.2.
    fn seal(&self, sequence: u64, content_type: u8, content: &[u8]) -> Option<Vec<u8>> {
        let len = u16::try_from(content.len() + RECORD_OVERHEAD - HEADER_LEN).ok()?;
        let [high, low] = len.to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let mut body = content.to_vec();
        body.push(content_type);
        self.aead()?
            .seal_in_place_append_tag(self.nonce(sequence), Aad::from(header), &mut body)
            .ok()?;
        Some([&header[..], &body].concat())
    }

    fn open(&self, sequence: u64, mut record: Vec<u8>) -> Option<(u8, Vec<u8>)> {
        let (header, body) = record.split_at_mut_checked(HEADER_LEN)?;
        let plaintext = self
            .aead()?
            .open_in_place(self.nonce(sequence), Aad::from(header), body)
            .ok()?;
        let (content_type, content) = plaintext.split_last()?;
        Some((*content_type, content.to_vec()))
    }

    fn aead(&self) -> Option<LessSafeKey> {
        let algorithm = match self.cipher {
            Cipher::Aes128Gcm => &aead::AES_128_GCM,
            Cipher::Aes256Gcm => &aead::AES_256_GCM,
            Cipher::Chacha20Poly1305 => &aead::CHACHA20_POLY1305,
        };
        let key = vec![self.fill; self.cipher.key_len()];
        UnboundKey::new(algorithm, &key).ok().map(LessSafeKey::new)
    }

    fn nonce(&self, sequence: u64) -> Nonce {
        let mut nonce = [self.fill; IV_LEN];
        for (byte, part) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= part;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

const TEXT: &[u8] = b"sealwire probes the kernel's TLS";

/// A `KeyUpdate` that asks for none in return (RFC 8446 section 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

const DATA: u8 = 23;
const HANDSHAKE: u8 = 22;
const HEADER_LEN: usize = 5;

/// A loopback connection needs microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_can_be_opened_and_nothing_else() {
        for cipher in Cipher::ALL {
            let secret = Secret::first(cipher);
            let record = secret.seal(7, HANDSHAKE, TEXT).unwrap();
            assert_eq!(record.len(), TEXT.len() + RECORD_OVERHEAD);
            let opened = secret.open(7, record.clone());
            assert_eq!(opened, Some((HANDSHAKE, TEXT.to_vec())));
            assert_eq!(secret.open(8, record.clone()), None);
            assert_eq!(Secret::second(cipher).open(7, record), None);
            assert_eq!(secret.open(0, b"plain".to_vec()), None);
        }
    }

    #[test]
    fn a_probe_agrees_with_what_the_kernel_lists() {
        let listed = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp");
        let found = Capabilities::probe();
        let is_listed = listed.is_ok_and(|names| names.split_whitespace().any(|it| it == "tls"));
        let is_absent = matches!(found.ulp(), Err(Why::NoConfigTls { .. }));
        assert_eq!(is_listed, !is_absent, "{found:?}");
    }
}
