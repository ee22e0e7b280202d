//! A key in the form that the kernel reads (`struct tls12_crypto_info_*` of linux/tls.h).

use std::fmt;

use nix::errno::Errno;
use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroizing;

use crate::error::SocketError;

/// The key of one direction with the number of its next record. Wiped when dropped.
pub struct TrafficKey {
    cipher: Cipher,
    /// The struct's bytes, as far as the cipher's is long.
    info: Zeroizing<[u8; LONGEST_INFO]>,
}

impl TrafficKey {
    /// The key of a session that rustls has given away.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a cipher that TLS 1.3 does not have.
    pub fn from_rustls(
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
    ) -> Result<Self, SocketError> {
        let unknown = SocketError::new("setsockopt", "TLS_TX/TLS_RX", Errno::EOPNOTSUPP);
        let (cipher, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Cipher::Chacha20Poly1305, key, iv)
            }
            _ => return Err(unknown),
        };
        let iv = iv.as_ref().try_into().map_err(|_| unknown)?;
        Self::new(cipher, key.as_ref(), iv, sequence)
    }

    /// A key made of its parts; `sequence` is the number of the next record.
    ///
    /// # Errors
    /// `EINVAL` where the key is not as long as the cipher's is.
    pub fn new(
        cipher: Cipher,
        key: &[u8],
        iv: &[u8; IV_LEN],
        sequence: u64,
    ) -> Result<Self, SocketError> {
        if key.len() != cipher.key_len() {
            return Err(SocketError::new(
                "setsockopt",
                "TLS_TX/TLS_RX",
                Errno::EINVAL,
            ));
        }
        let mut info = Zeroizing::new([0; LONGEST_INFO]);
        let (salt, rest) = iv.split_at(cipher.salt_len());
        let mut at = 0;
        for part in [
            &libc::TLS_1_3_VERSION.to_ne_bytes()[..],
            &cipher.number().to_ne_bytes()[..],
            rest,
            key,
            salt,
            &sequence.to_be_bytes()[..],
        ] {
            info[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(Self { cipher, info })
    }

    /// The cipher.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The number of the first record under it.
    pub fn sequence(&self) -> u64 {
        self.as_bytes()
            .last_chunk()
            .map_or(0, |sequence| u64::from_be_bytes(*sequence))
    }

    /// What `setsockopt` takes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.info[..self.cipher.info_len()]
    }
}

impl fmt::Debug for TrafficKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cipher, info: _ } = self;
        f.debug_struct("TrafficKey")
            .field("cipher", cipher)
            .finish_non_exhaustive()
    }
}

/// What protects the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305. Minimum kernel version: 5.11.
    Chacha20Poly1305,
}

impl Cipher {
    /// Every cipher of TLS 1.3 that Sealwire negotiates.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::Chacha20Poly1305];

    /// The name, as logs and metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Chacha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// The key's length in bytes.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::Chacha20Poly1305 => 32,
        }
    }

    /// How much of the initialization vector the kernel calls salt: for GCM the first four bytes,
    /// as TLS 1.2 had it.
    fn salt_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 4,
            Self::Chacha20Poly1305 => 0,
        }
    }

    pub(crate) fn number(self) -> u16 {
        match self {
            Self::Aes128Gcm => libc::TLS_CIPHER_AES_GCM_128,
            Self::Aes256Gcm => libc::TLS_CIPHER_AES_GCM_256,
            Self::Chacha20Poly1305 => libc::TLS_CIPHER_CHACHA20_POLY1305,
        }
    }

    pub(crate) fn info_len(self) -> usize {
        INFO_HEADER_LEN + IV_LEN + self.key_len() + SEQUENCE_LEN
    }
}

/// An initialization vector of TLS 1.3 (RFC 8446 section 5.3).
pub(crate) const IV_LEN: usize = 12;

/// Version and cipher.
const INFO_HEADER_LEN: usize = 4;
pub(crate) const SEQUENCE_LEN: usize = 8;
pub(crate) const LONGEST_INFO: usize = INFO_HEADER_LEN + IV_LEN + 32 + SEQUENCE_LEN;

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use libc::{
        tls12_crypto_info_aes_gcm_128 as Gcm128, tls12_crypto_info_aes_gcm_256 as Gcm256,
        tls12_crypto_info_chacha20_poly1305 as Chacha20,
    };

    use super::*;

    const IV: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    #[test]
    fn every_field_lies_where_the_kernel_looks_for_it() {
        macro_rules! offsets {
            ($info:ty) => {
                [
                    offset_of!($info, iv),
                    offset_of!($info, key),
                    offset_of!($info, salt),
                    offset_of!($info, rec_seq),
                    size_of::<$info>(),
                ]
            };
        }
        for (cipher, iv, salt, [at_iv, at_key, at_salt, at_sequence, len]) in [
            (Cipher::Aes128Gcm, &IV[4..], &IV[..4], offsets!(Gcm128)),
            (Cipher::Aes256Gcm, &IV[4..], &IV[..4], offsets!(Gcm256)),
            (
                Cipher::Chacha20Poly1305,
                &IV[..],
                &[][..],
                offsets!(Chacha20),
            ),
        ] {
            let key = vec![0xaa; cipher.key_len()];
            let made = TrafficKey::new(cipher, &key, &IV, 0x0102_0304_0506_0708).unwrap();
            let bytes = made.as_bytes();
            assert_eq!(bytes.len(), len, "{cipher:?}");
            assert_eq!(bytes[..2], libc::TLS_1_3_VERSION.to_ne_bytes());
            assert_eq!(bytes[2..4], cipher.number().to_ne_bytes());
            assert_eq!(&bytes[at_iv..at_iv + iv.len()], iv);
            assert_eq!(&bytes[at_key..at_key + key.len()], key);
            assert_eq!(&bytes[at_salt..at_salt + salt.len()], salt);
            assert_eq!(bytes[at_sequence..], [1, 2, 3, 4, 5, 6, 7, 8]);
            assert_eq!(made.sequence(), 0x0102_0304_0506_0708);
        }
    }

    #[test]
    fn a_key_of_another_ciphers_length_is_refused() {
        for cipher in Cipher::ALL {
            let error = TrafficKey::new(cipher, &[0; 24], &IV, 0).unwrap_err();
            assert_eq!(error.errno, Errno::EINVAL);
        }
    }

    #[test]
    fn what_is_printed_of_a_key_is_not_the_key() {
        let key = TrafficKey::new(Cipher::Aes128Gcm, &[0xab; 16], &IV, 0).unwrap();
        assert_eq!(format!("{key:?}"), "TrafficKey { cipher: Aes128Gcm, .. }");
    }
}
