//! How many checks passed, failed and were skipped.

use std::{fmt, ops::AddAssign};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Tally {
    pub(crate) const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub(crate) const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    pub(crate) fn skipped(skipped: usize) -> Self {
        Self {
            skipped,
            ..Self::default()
        }
    }

    /// The counts of libtest's `test result:` line; ignored tests count as skipped.
    pub(crate) fn of_libtest(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?;
        let count = |what: &str| {
            counts
                .split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("ignored")?,
        })
    }

    /// Counts `lines` of the skip log as tests that skipped themselves: libtest calls them passed.
    pub(crate) fn with_self_skipped(self, lines: usize) -> Self {
        Self {
            passed: self.passed.saturating_sub(lines),
            skipped: self.skipped + lines,
            ..self
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self {
            passed,
            failed,
            skipped,
        } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_line_of_libtest_is_counted() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; \
                    finished in 0.01s";
        let expected = Tally {
            passed: 5,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(Tally::of_libtest(line), Some(expected));
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(Tally::of_libtest("test a_test_passed ... ok"), None);
        assert_eq!(Tally::of_libtest("test result: ok"), None);
    }

    #[test]
    fn a_test_that_skipped_itself_did_not_pass() {
        let tally = Tally {
            passed: 5,
            failed: 0,
            skipped: 1,
        }
        .with_self_skipped(2);
        assert_eq!(
            tally,
            Tally {
                passed: 3,
                failed: 0,
                skipped: 3
            }
        );
    }
}
