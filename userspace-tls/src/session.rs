//! What a handshake leaves behind: the keys of both directions.

use std::{array, fmt};

use aws_lc_rs::digest;
use kernel_tls::Cipher;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets};

use crate::alert::{Alert, FATAL};
use crate::records::{ContentType, HEADER_LEN, OVERHEAD, Sealer};

/// The keys of a connection and what makes the next ones.
pub struct Session {
    pub(crate) secrets: ExtractedSecrets,
    pub(crate) keys: KeySchedule,
    /// Records that one sending key may protect before it is replaced.
    pub(crate) records_per_key: u64,
}

/// What both sides of a connection can call it, and nobody else knows: nothing of it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    /// In 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl Session {
    /// The same for both sides.
    ///
    /// A digest of the two nonces that the key schedule has made beside the keys (`[sender]_write_iv`,
    /// RFC 8446 section 7.3): they say nothing of the keys, nor does the digest of them. rustls'
    /// unbuffered connections have no exporter (section 7.5), whose task this would be.
    pub fn id(&self) -> SessionId {
        let (own, peer) = (iv(&self.secrets.tx.1), iv(&self.secrets.rx.1));
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(b"sealwire session id");
        digest.update(own.min(peer));
        digest.update(own.max(peer));
        let digest = digest.finish();
        SessionId(array::from_fn(|at| digest.as_ref()[at]))
    }

    /// The cipher, by the kernel's names; `None` for one that it does not know.
    pub fn cipher(&self) -> Option<Cipher> {
        match self.secrets.tx.1 {
            ConnectionTrafficSecrets::Aes128Gcm { .. } => Some(Cipher::Aes128Gcm),
            ConnectionTrafficSecrets::Aes256Gcm { .. } => Some(Cipher::Aes256Gcm),
            ConnectionTrafficSecrets::Chacha20Poly1305 { .. } => Some(Cipher::Chacha20Poly1305),
            _ => None,
        }
    }

    /// The record by which a peer learns that it has proved who it is and may not go on all the
    /// same: a fatal alert `access_denied` (RFC 8446 section 6.2). Nothing can follow it.
    ///
    /// `None` where it can't be sealed; a reset has to say it then.
    pub fn deny(self) -> Option<Vec<u8>> {
        let mut record = vec![0; ALERT_LEN + OVERHEAD];
        record[HEADER_LEN..HEADER_LEN + ALERT_LEN]
            .copy_from_slice(&[FATAL, Alert::ACCESS_DENIED.0]);
        let (sequence, secrets) = &self.secrets.tx;
        Sealer::new(*sequence, secrets, self.records_per_key)
            .and_then(|mut sealer| sealer.seal(&mut record, ContentType::Alert, ALERT_LEN))
            .ok()?;
        Some(record)
    }
}

fn iv(secrets: &ConnectionTrafficSecrets) -> &[u8] {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { iv, .. }
        | ConnectionTrafficSecrets::Aes256Gcm { iv, .. }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { iv, .. } => iv.as_ref(),
        // No suite of ours has others.
        _ => &[],
    }
}

/// An alert is its level and its description.
const ALERT_LEN: usize = 2;

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// rustls' key schedule after the handshake (RFC 8446 section 7.2).
pub(crate) enum KeySchedule {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl KeySchedule {
    pub(crate) fn next_tx(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        let (_, secrets) = match self {
            Self::Client(connection) => connection.update_tx_secret(),
            Self::Server(connection) => connection.update_tx_secret(),
        }?;
        Ok(secrets)
    }

    pub(crate) fn next_rx(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        let (_, secrets) = match self {
            Self::Client(connection) => connection.update_rx_secret(),
            Self::Server(connection) => connection.update_rx_secret(),
        }?;
        Ok(secrets)
    }
}
