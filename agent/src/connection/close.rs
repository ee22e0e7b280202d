use userspace_tls::RelayEnd;

/// How an established connection ended. The sockets were closed, or reset, accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CloseReason {
    /// Both sides ended their stream.
    Orderly,
    /// The program reset the connection.
    AppReset,
    /// The peer, or its host, reset the connection.
    WireReset,
    /// The peer's stream ended without `close_notify`: it may have been cut, so the program saw a
    /// reset.
    WireTruncated,
    /// The peer ended the connection with an alert.
    PeerAlert,
    /// A record that can't have come from the peer.
    BadRecord,
    /// The program's socket failed otherwise.
    AppError,
    /// The wire's socket failed otherwise.
    WireError,
    /// The agent stopped and reset the connection.
    AgentStopped,
}

impl CloseReason {
    /// The code in logs, metrics and the documentation.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Orderly => "orderly",
            Self::AppReset => "app-reset",
            Self::WireReset => "wire-reset",
            Self::WireTruncated => "wire-truncated",
            Self::PeerAlert => "peer-alert",
            Self::BadRecord => "bad-record",
            Self::AppError => "app-error",
            Self::WireError => "wire-error",
            Self::AgentStopped => "agent-stopped",
        }
    }
}

impl From<RelayEnd> for CloseReason {
    fn from(end: RelayEnd) -> Self {
        match end {
            RelayEnd::Orderly => Self::Orderly,
            RelayEnd::AppReset => Self::AppReset,
            RelayEnd::WireReset => Self::WireReset,
            RelayEnd::WireTruncated => Self::WireTruncated,
            RelayEnd::PeerAlert(_) => Self::PeerAlert,
            RelayEnd::BadRecord(_) => Self::BadRecord,
            RelayEnd::AppError(_) => Self::AppError,
            RelayEnd::WireError(_) => Self::WireError,
        }
    }
}
