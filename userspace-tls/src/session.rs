//! What a handshake leaves behind: the keys of both directions.

use std::fmt;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets};

/// The keys of a connection and what makes the next ones.
pub struct Session {
    pub(crate) secrets: ExtractedSecrets,
    pub(crate) keys: KeySchedule,
    /// Records that one sending key may protect before it is replaced.
    pub(crate) records_per_key: u64,
}

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
