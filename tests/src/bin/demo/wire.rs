//! What somebody on the wire could see.

use anyhow::{Result, ensure};
use testbed::{Sniffer, Testbed};

/// A running watch of all that the hosts send.
pub(crate) struct Wire {
    plaintext: Sniffer,
    records: Sniffer,
}

impl Wire {
    /// Watches from now on.
    pub(crate) fn watch(bed: &Testbed) -> Result<Self> {
        Ok(Self {
            plaintext: bed.sniff()?,
            records: bed.sniff_for(&[TLS_RECORD])?,
        })
    }

    /// What was seen until now.
    pub(crate) fn finish(self) -> Result<Seen> {
        let plaintext = self.plaintext.finish()?;
        Ok(Seen {
            markers: plaintext.markers,
            bytes: plaintext.tcp_bytes(),
            records: self.records.finish()?.markers,
        })
    }
}

/// Counts of what crossed the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Markers of the page, in clear.
    pub(crate) markers: u64,
    /// Bytes of TCP payload.
    pub(crate) bytes: u64,
    /// TLS records of application data.
    pub(crate) records: u64,
}

impl Seen {
    /// Fails if the page's marker was readable.
    pub(crate) fn unreadable(self) -> Result<Self> {
        ensure!(
            self.markers == 0,
            "the page's marker was on the wire in clear, {} times",
            self.markers
        );
        Ok(self)
    }
}

/// How a record of application data begins in TLS 1.3 (RFC 8446, section 5.1).
const TLS_RECORD: &[u8] = b"\x17\x03\x03";
