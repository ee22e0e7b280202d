//! Which directions of a connection the kernel's TLS takes over, and when.

use std::fmt;

use tokio::net::TcpStream;

use crate::queues::Queues;

/// What the kernel is to do for one connection. Who decides has asked
/// [`kernel_tls::Capabilities`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Sealing what is sent.
    pub tx: Takeover,
    /// Opening what is received.
    pub rx: Takeover,
    /// Whether a key that the kernel has can be replaced.
    pub rekey: bool,
    /// Whether bulk is moved by splice(2) where the kernel has the key.
    pub splice: bool,
}

/// When the kernel takes one direction over. It never gives it back: a socket keeps its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Takeover {
    /// Never.
    #[default]
    Never,
    /// Once the direction has shown itself to be bulk: [`BULK_BYTES`] moved in large reads.
    Bulk,
    /// Before its first byte.
    AtOnce,
}

/// A direction of a connection, seen from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From the program to the wire.
    Sent,
    /// From the wire to the program.
    Received,
}

/// What a relay tells while it runs.
pub trait Events {
    /// The kernel protects this direction from now on.
    fn taken_over(&self, flow: Flow);

    /// The sending key is nearly used up and can't be replaced: the connection will be ended with
    /// [`crate::RelayEnd::KeyLimit`], so that its program had better open another.
    fn key_limit_near(&self);

    /// The last [`crate::CHATTY_READS`] reads from the program's socket `app` were small. Told once;
    /// whoever lets further messages come past TCP says so, for good.
    fn chatty(&self, _app: &TcpStream) -> Queues {
        Queues::Tcp
    }
}

/// Nobody listens.
impl Events for () {
    fn taken_over(&self, _flow: Flow) {}

    fn key_limit_near(&self) {}
}

/// Finds out whether a direction is bulk.
///
/// The switch is one-way, so it is slow to come: a direction earns it with [`BULK_BYTES`] in reads of
/// at least [`LARGE_READ`], and one small read takes away half of what it has earned. A program that
/// answers requests with large bodies now and then stays where small messages are cheap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BulkWatch {
    takeover: Takeover,
    earned: usize,
}

impl BulkWatch {
    pub(crate) fn new(takeover: Takeover) -> Self {
        Self {
            takeover,
            earned: 0,
        }
    }

    /// One read brought this many bytes.
    pub(crate) fn saw(&mut self, bytes: usize) {
        if self.is_due() {
            // The last reads here end where a record does, and are small for that.
            return;
        }
        self.earned = if bytes >= LARGE_READ {
            self.earned.saturating_add(bytes)
        } else {
            self.earned / 2
        };
    }

    /// Whether the direction has shown itself to be bulk.
    pub(crate) fn is_bulk(&self) -> bool {
        self.earned >= BULK_BYTES
    }

    /// Whether the kernel is to take the direction over as soon as it can.
    pub(crate) fn is_due(&self) -> bool {
        match self.takeover {
            Takeover::Never => false,
            Takeover::Bulk => self.is_bulk(),
            Takeover::AtOnce => true,
        }
    }
}

/// Says whether the next bytes of a direction that the kernel has are spliced or copied.
///
/// Splicing spares a copy each way and costs one more system call, so it is for bulk: it begins as
/// [`BulkWatch`] says, and ends with [`SMALL_READS`] small ones in a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpliceWatch {
    state: SpliceState,
}

#[derive(Clone, Copy, Debug)]
enum SpliceState {
    Never,
    Copying(BulkWatch),
    Splicing { small_in_a_row: u8 },
}

impl SpliceWatch {
    /// `is_bulk`: the direction has shown itself to be that already.
    pub(crate) fn new(is_sound: bool, is_bulk: bool) -> Self {
        let state = match (is_sound, is_bulk) {
            (false, _) => SpliceState::Never,
            (true, false) => SpliceState::Copying(BulkWatch::new(Takeover::Bulk)),
            (true, true) => SpliceState::Splicing { small_in_a_row: 0 },
        };
        Self { state }
    }

    pub(crate) fn is_splicing(&self) -> bool {
        matches!(self.state, SpliceState::Splicing { .. })
    }

    /// One read, of whichever kind, brought this many bytes.
    pub(crate) fn saw(&mut self, bytes: usize) {
        match &mut self.state {
            SpliceState::Never => {}
            SpliceState::Copying(watch) => {
                watch.saw(bytes);
                if watch.is_due() {
                    self.state = SpliceState::Splicing { small_in_a_row: 0 };
                }
            }
            SpliceState::Splicing { small_in_a_row } if bytes >= LARGE_READ => *small_in_a_row = 0,
            SpliceState::Splicing { small_in_a_row } => {
                *small_in_a_row += 1;
                if *small_in_a_row == SMALL_READS {
                    self.state = SpliceState::Copying(BulkWatch::new(Takeover::Bulk));
                }
            }
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "tx",
            Self::Received => "rx",
        })
    }
}

/// What a direction moves in large reads before the kernel takes it over, in bytes: long enough that
/// the switch (three system calls) is lost in it, short enough that a file of a few MiB gains.
pub const BULK_BYTES: usize = 1 << 20;

/// A read that fills a record, in bytes: the other side writes faster than one record at a time.
pub const LARGE_READ: usize = 16 * 1024;

/// Small reads in a row that end splicing: the last read of a burst is small as well, and a burst
/// that goes on is not to earn its way again.
const SMALL_READS: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direction_is_bulk_after_a_mebibyte_in_large_reads() {
        let mut watch = BulkWatch::new(Takeover::Bulk);
        for _ in 0..BULK_BYTES / LARGE_READ - 1 {
            watch.saw(LARGE_READ);
            assert!(!watch.is_due());
        }
        watch.saw(LARGE_READ);
        assert!(watch.is_due());
        watch.saw(1);
        assert!(watch.is_due());
    }

    #[test]
    fn small_reads_take_away_what_large_ones_have_earned() {
        let mut watch = BulkWatch::new(Takeover::Bulk);
        for _ in 0..1000 {
            watch.saw(BULK_BYTES / 2 - 1);
            watch.saw(LARGE_READ - 1);
        }
        assert!(!watch.is_due());
    }

    #[test]
    fn what_was_decided_at_the_start_waits_for_nothing() {
        assert!(BulkWatch::new(Takeover::AtOnce).is_due());
        let mut never = BulkWatch::new(Takeover::Never);
        never.saw(usize::MAX);
        never.saw(usize::MAX);
        assert!(!never.is_due());
    }

    #[test]
    fn splicing_begins_with_bulk_and_ends_with_small_messages() {
        let mut watch = SpliceWatch::new(true, false);
        for _ in 0..1000 {
            watch.saw(100);
        }
        assert!(!watch.is_splicing());
        watch.saw(BULK_BYTES);
        assert!(watch.is_splicing());
        for _ in 0..100 {
            for _ in 1..SMALL_READS {
                watch.saw(LARGE_READ - 1);
            }
            watch.saw(LARGE_READ);
        }
        assert!(watch.is_splicing());
        for _ in 0..SMALL_READS {
            assert!(watch.is_splicing());
            watch.saw(1);
        }
        assert!(!watch.is_splicing());
        watch.saw(LARGE_READ);
        assert!(!watch.is_splicing());
        watch.saw(BULK_BYTES);
        assert!(watch.is_splicing());
    }

    #[test]
    fn where_splicing_is_not_sound_everything_is_copied() {
        let mut watch = SpliceWatch::new(false, true);
        for _ in 0..100 {
            assert!(!watch.is_splicing());
            watch.saw(BULK_BYTES);
        }
    }
}
