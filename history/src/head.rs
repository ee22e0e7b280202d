use std::fmt;

use attestation::Digest;
use thiserror::Error;

/// The end of a history: what agents, owners and Coordinators remember of it.
///
/// Of two heads of one history the greater is the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Head {
    /// The number of transitions.
    pub seq: u64,
    /// The hash of the last.
    pub hash: Digest,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transition {} ({})", self.seq, self.hash)
    }
}

/// Refuses a history that ends before the one that is remembered, or differs from it at its end.
///
/// An `offered` head that is newer may still be of a fork: only the transitions in between can show
/// that it is not ([`Chain::check_extends`](crate::Chain::check_extends)).
pub fn check_not_older(remembered: &Head, offered: &Head) -> Result<(), Rollback> {
    if offered.seq < remembered.seq {
        return Err(Rollback::Older {
            offered: *offered,
            remembered: *remembered,
        });
    }
    if offered.seq == remembered.seq && offered.hash != remembered.hash {
        return Err(Rollback::Fork {
            seq: offered.seq,
            offered: offered.hash,
            remembered: remembered.hash,
        });
    }
    Ok(())
}

/// Why a history is refused though every signature in it is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rollback {
    /// It ends earlier than one that was seen before.
    #[error("the history is rolled back: it ends with {offered}, but {remembered} was seen before")]
    Older {
        /// The head offered.
        offered: Head,
        /// The head remembered.
        remembered: Head,
    },
    /// It has another transition in the place of one that was seen before.
    #[error(
        "the history is forked: its transition {seq} is {offered}, but {remembered} was seen before"
    )]
    Fork {
        /// The place of the two transitions.
        seq: u64,
        /// The hash of the one offered.
        offered: Digest,
        /// The hash of the one remembered.
        remembered: Digest,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(seq: u64, hash: u8) -> Head {
        Head {
            seq,
            hash: Digest([hash; 32]),
        }
    }

    #[test]
    fn the_same_and_newer_heads_are_accepted() {
        assert_eq!(check_not_older(&head(2, 9), &head(2, 9)), Ok(()));
        assert_eq!(check_not_older(&head(2, 9), &head(3, 1)), Ok(()));
    }

    #[test]
    fn an_older_head_is_refused() {
        for offered in [head(1, 1), head(1, 9), head(0, 0)] {
            assert_eq!(
                check_not_older(&head(2, 9), &offered),
                Err(Rollback::Older {
                    offered,
                    remembered: head(2, 9)
                })
            );
        }
    }

    #[test]
    fn another_head_of_the_same_age_is_a_fork() {
        assert_eq!(
            check_not_older(&head(2, 9), &head(2, 8)),
            Err(Rollback::Fork {
                seq: 2,
                offered: Digest([8; 32]),
                remembered: Digest([9; 32])
            })
        );
    }

    #[test]
    fn the_newer_head_is_the_greater() {
        assert!(head(3, 0) > head(2, 255));
    }
}
