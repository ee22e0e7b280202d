//! How much a key that the kernel has may still protect.

use kernel_tls::Pipe;

use crate::records::{MAX_PLAINTEXT_LEN, last_batch_at};

/// How much of what one key may protect has been used (RFC 8446 section 5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyAge {
    Young,
    /// Told once: when [`OLD_PART`] of its records are left.
    Old,
    UsedUp,
}

/// Counts the records of a key. The kernel says how many there were, but a question for every write
/// would cost as much as the write: so an upper bound is kept, and the kernel asked near the ends.
#[derive(Debug)]
pub(super) struct KeyUse {
    records_per_key: u64,
    /// Records sealed, or more.
    records: u64,
    told: bool,
}

impl KeyUse {
    pub(super) fn new(records: u64, records_per_key: u64) -> Self {
        Self {
            records_per_key,
            records,
            told: false,
        }
    }

    /// A write of so many bytes was accepted. It may end in the middle of a record.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.records += (bytes / MAX_PLAINTEXT_LEN) as u64 + 1;
    }

    /// The same for bytes out of a pipe, which end a record early where they lie in many pieces.
    pub(super) fn spliced(&mut self, bytes: usize) {
        self.sent(bytes);
        self.records += Pipe::PIECES as u64;
    }

    /// Another key, none of which is used.
    pub(super) fn begin_again(&mut self) {
        *self = Self::new(0, self.records_per_key);
    }

    /// How much of the key has been used; `ask` gives the kernel's own count of its records.
    pub(super) fn age<E>(&mut self, ask: impl FnOnce() -> Result<u64, E>) -> Result<KeyAge, E> {
        if self.needs_a_look() {
            self.records = ask()?;
        }
        Ok(self.judge())
    }

    fn used_up_at(&self) -> u64 {
        last_batch_at(self.records_per_key)
    }

    fn old_at(&self) -> u64 {
        self.used_up_at() - self.used_up_at() / OLD_PART
    }

    fn needs_a_look(&self) -> bool {
        let next = if self.told {
            self.used_up_at()
        } else {
            self.old_at()
        };
        self.records >= next
    }

    fn judge(&mut self) -> KeyAge {
        if self.records >= self.used_up_at() {
            KeyAge::UsedUp
        } else if self.records >= self.old_at() && !self.told {
            self.told = true;
            KeyAge::Old
        } else {
            KeyAge::Young
        }
    }
}

/// One sixteenth: of AES-GCM's 2^24 records that is a million, 16 GiB in full ones.
const OLD_PART: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_old_once_and_then_used_up() {
        let mut age = KeyUse::new(0, 1064);
        let mut seen = Vec::new();
        while age.judge() != KeyAge::UsedUp {
            seen.push(age.judge());
            age.sent(MAX_PLAINTEXT_LEN - 1);
        }
        assert_eq!(age.records, 1000);
        assert_eq!(seen.iter().filter(|age| **age == KeyAge::Old).count(), 0);
        let mut age = KeyUse::new(0, 1064);
        let told: Vec<u64> = (0..1000)
            .filter(|_| {
                let old = age.judge() == KeyAge::Old;
                age.sent(1);
                old
            })
            .collect();
        assert_eq!(told, [938]);
    }

    #[test]
    fn what_a_write_can_have_sealed_is_never_counted_low() {
        for (bytes, records) in [
            (1, 1),
            (MAX_PLAINTEXT_LEN, 2),
            (3 * MAX_PLAINTEXT_LEN + 1, 4),
        ] {
            let mut age = KeyUse::new(0, 1 << 24);
            age.sent(bytes);
            assert_eq!(age.records, records);
        }
    }

    #[test]
    fn the_kernel_knows_better_what_was_spliced() {
        let mut age = KeyUse::new(0, 1064);
        let mut asked = 0;
        for batch in 1..60 {
            age.spliced(16 * MAX_PLAINTEXT_LEN);
            let judged = age.age(|| {
                asked += 1;
                Ok::<_, ()>(batch * 16)
            });
            assert_eq!(
                judged,
                Ok(if batch == 59 {
                    KeyAge::Old
                } else {
                    KeyAge::Young
                })
            );
        }
        assert!(asked < 20, "{asked}");
        age.spliced(1);
        assert_eq!(age.age(|| Ok::<_, ()>(1000)), Ok(KeyAge::UsedUp));
    }

    #[test]
    fn the_kernel_is_asked_only_near_the_ends() {
        let mut age = KeyUse::new(0, 1064);
        assert!(!age.needs_a_look());
        age.records = 938;
        assert!(age.needs_a_look());
        assert_eq!(age.judge(), KeyAge::Old);
        assert!(!age.needs_a_look());
        age.records = 1000;
        assert!(age.needs_a_look());
        // A cipher without a limit.
        let age = KeyUse::new(1 << 60, u64::MAX);
        assert!(!age.needs_a_look());
    }
}
