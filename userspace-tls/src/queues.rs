//! Where the bytes that a program sends wait for the relay.

/// The queues of a program's socket. One read takes from one queue alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queues {
    /// TCP's: a short read has emptied it.
    #[default]
    Tcp,
    /// TCP's, and that of messages which an eBPF program redirects past it: a short read says
    /// nothing of the other one.
    ///
    /// Such a socket must never be spliced from: splice(2) sees TCP's queue alone (Linux 6.1 to
    /// 6.18).
    TcpAndRedirected,
}

/// Finds out whether a program says much in few words.
///
/// A connection that ends after a request or two gains nothing from being prepared for more.
#[derive(Debug, Default)]
pub(crate) struct ChatWatch {
    small_reads: u8,
}

impl ChatWatch {
    /// One read brought this many bytes; true once, when the connection has shown itself to be
    /// chatty.
    pub(crate) fn saw(&mut self, bytes: usize) -> bool {
        if self.small_reads == CHATTY_READS {
            return false;
        }
        self.small_reads = if bytes > SMALL_READ {
            0
        } else {
            self.small_reads + 1
        };
        self.small_reads == CHATTY_READS
    }
}

/// How many small reads in a row make a connection chatty.
pub const CHATTY_READS: u8 = 8;

/// The most bytes of a small read.
const SMALL_READ: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_chatty_once_after_small_reads_in_a_row() {
        let mut watch = ChatWatch::default();
        for _ in 1..CHATTY_READS {
            assert!(!watch.saw(1));
        }
        assert!(!watch.saw(SMALL_READ + 1));
        for _ in 1..CHATTY_READS {
            assert!(!watch.saw(SMALL_READ));
        }
        assert!(watch.saw(1));
        for _ in 0..1000 {
            assert!(!watch.saw(1));
        }
    }
}
