//! What network cards have taken over (`net/tls_stat` of /proc).

use std::fs;

/// How many directions of connections a network card protects or has protected; of a whole network
/// namespace, not of this process alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicOffload {
    /// Sending, now (`TlsCurrTxDevice`).
    pub tx_now: u64,
    /// Receiving, now (`TlsCurrRxDevice`).
    pub rx_now: u64,
    /// Sending, ever (`TlsTxDevice`).
    pub tx: u64,
    /// Receiving, ever (`TlsRxDevice`).
    pub rx: u64,
}

impl NicOffload {
    /// Reads the counters of the thread's namespace; `None` where the kernel's TLS is not loaded.
    pub fn read() -> Option<Self> {
        fs::read_to_string("/proc/thread-self/net/tls_stat")
            .ok()
            .map(|text| Self::parse(&text))
    }

    /// The counters of two namespaces together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let Self {
            tx_now,
            rx_now,
            tx,
            rx,
        } = other;
        Self {
            tx_now: self.tx_now + tx_now,
            rx_now: self.rx_now + rx_now,
            tx: self.tx + tx,
            rx: self.rx + rx,
        }
    }

    fn parse(text: &str) -> Self {
        let mut counted = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (name, value) = (words.next(), words.next().and_then(|it| it.parse().ok()));
            let (Some(name), Some(value)) = (name, value) else {
                continue;
            };
            match name {
                "TlsCurrTxDevice" => counted.tx_now = value,
                "TlsCurrRxDevice" => counted.rx_now = value,
                "TlsTxDevice" => counted.tx = value,
                "TlsRxDevice" => counted.rx = value,
                _ => {}
            }
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_cards_are_found_among_the_others() {
        let text = "TlsCurrTxSw                     \t5\nTlsCurrRxSw                     \t6\n\
                    TlsCurrTxDevice                 \t1\nTlsCurrRxDevice                 \t2\n\
                    TlsTxSw                         \t9\nTlsTxDevice                     \t3\n\
                    TlsRxDevice                     \t4\nTlsDecryptError                 \t0\n";
        let expected = NicOffload {
            tx_now: 1,
            rx_now: 2,
            tx: 3,
            rx: 4,
        };
        assert_eq!(NicOffload::parse(text), expected);
    }

    #[test]
    fn what_cannot_be_read_counts_nothing() {
        for text in ["", "TlsTxDevice", "TlsTxDevice x", "TlsTxDevice -1\n\n"] {
            assert_eq!(NicOffload::parse(text), NicOffload::default());
        }
    }
}
