//! Loopback connections, and records made without the kernel.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use kernel_tls::{Cipher, Received, Rx, TrafficKey, Tx, Ulp, Why};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub(crate) const DATA: u8 = 23;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const ALERT: u8 = 21;
pub(crate) const CLOSE_NOTIFY: [u8; 2] = [1, 0];
pub(crate) const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// Leaves a test on a kernel whose TLS may not be used, and says so aloud.
macro_rules! require_kernel_tls {
    () => {
        if let Err(why) = kernel_tls::Capabilities::probe().ulp() {
            $crate::common::skip(&why);
            return;
        }
    };
}
pub(crate) use require_kernel_tls;

/// As the tests of the testbed do.
pub(crate) fn skip(why: &Why) {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {why}", thread.name().unwrap_or("a test"));
    let _ = writeln!(std::io::stderr(), "{line}");
    if let Some(path) = std::env::var_os("SEALWIRE_SKIP_LOG")
        && let Ok(mut log) = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path)
    {
        let _ = writeln!(log, "{line}");
    }
}

pub(crate) fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
    }
    (near, far)
}

pub(crate) fn key(cipher: Cipher, fill: u8) -> TrafficKey {
    TrafficKey::new(cipher, &vec![fill; cipher.key_len()], &[fill; 12], 0).unwrap()
}

pub(crate) fn sender(socket: &TcpStream, cipher: Cipher) -> Tx {
    let ulp = Ulp::attach(socket).unwrap();
    ulp.tx.install(socket, &key(cipher, 1)).unwrap()
}

pub(crate) fn receiver(socket: &TcpStream, cipher: Cipher) -> Rx {
    let ulp = Ulp::attach(socket).unwrap();
    ulp.rx.install(socket, &key(cipher, 1)).unwrap()
}

/// What the next read brings, waiting for it.
pub(crate) fn receive(socket: &TcpStream, rx: &Rx) -> std::io::Result<(Received, Vec<u8>)> {
    let mut waited = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut waited, patience).unwrap(), 1, "nothing came");
    let mut buffer = vec![0; 1 << 18];
    let received = rx.receive(socket, &mut buffer)?;
    let len = match received {
        Received::Data(len) | Received::Other { len, .. } => len,
        Received::End => 0,
    };
    buffer.truncate(len);
    Ok((received, buffer))
}

/// The records of one direction, sealed or opened outside the kernel.
pub(crate) struct Records {
    cipher: Cipher,
    fill: u8,
    next: u64,
}

impl Records {
    pub(crate) fn new(cipher: Cipher, fill: u8) -> Self {
        Self {
            cipher,
            fill,
            next: 0,
        }
    }

    pub(crate) fn seal(&mut self, content_type: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let len = (content.len() + 1 + padding + 16) as u16;
        let [high, low] = len.to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let mut body = content.to_vec();
        body.push(content_type);
        body.resize(body.len() + padding, 0);
        let (aead, nonce) = (self.aead(), self.nonce());
        aead.seal_in_place_append_tag(nonce, Aad::from(header), &mut body)
            .unwrap();
        [&header[..], &body].concat()
    }

    /// Opens the record at the beginning of `bytes`; its type, its content and its length.
    pub(crate) fn open(&mut self, bytes: &[u8]) -> (u8, Vec<u8>, usize) {
        let len = 5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        let (header, body) = bytes[..len].split_at(5);
        let mut body = body.to_vec();
        let (aead, nonce) = (self.aead(), self.nonce());
        let plaintext = aead.open_in_place(nonce, Aad::from(header), &mut body);
        let (content_type, content) = plaintext.unwrap().split_last().unwrap();
        (*content_type, content.to_vec(), len)
    }

    fn aead(&self) -> LessSafeKey {
        let algorithm = match self.cipher {
            Cipher::Aes128Gcm => &aead::AES_128_GCM,
            Cipher::Aes256Gcm => &aead::AES_256_GCM,
            Cipher::Chacha20Poly1305 => &aead::CHACHA20_POLY1305,
        };
        let key = vec![self.fill; self.cipher.key_len()];
        LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap())
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = [self.fill; 12];
        for (byte, part) in nonce[4..].iter_mut().zip(self.next.to_be_bytes()) {
            *byte ^= part;
        }
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

const PATIENCE: Duration = Duration::from_secs(10);
