//! How long to rest after a failure.

use std::time::Duration;

/// Pauses that double from failure to failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// For a workload that serves meanwhile.
    pub(crate) const fn new() -> Self {
        Self::up_to(LONGEST)
    }

    /// For a program that can't even begin.
    pub(crate) const fn of_init() -> Self {
        Self::up_to(LONGEST_OF_INIT)
    }

    /// For clocks that are apart: somebody has to set one right, and each attempt takes evidence.
    pub(crate) const fn of_clocks() -> Self {
        Self::up_to(LONGEST_OF_CLOCKS)
    }

    const fn up_to(longest: Duration) -> Self {
        Self {
            next: SHORTEST,
            longest,
        }
    }

    /// The next pause: between a half and the whole of what the failures so far amount to, as
    /// `fraction` (0 to 1) says.
    ///
    /// `left` is how long the certificate in use is still valid: as its end comes near, pauses are
    /// not doubled beyond a fraction of it.
    pub(crate) fn pause(&mut self, left: Option<Duration>, fraction: f64) -> Duration {
        let longest = left
            .filter(|left| !left.is_zero())
            .map_or(self.longest, |left| {
                (left / 8).clamp(SHORTEST, self.longest)
            });
        let whole = self.next.min(longest);
        self.next = (self.next * 2).min(self.longest);
        whole.mul_f64(0.5 + fraction / 2.0)
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = SHORTEST;
    }
}

/// The pause after an answer that only a new manifest changes.
pub(crate) fn pause_for_manifest(fraction: f64) -> Duration {
    NOT_ALLOWED.mul_f64(0.5 + fraction / 2.0)
}

const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
const LONGEST_OF_INIT: Duration = Duration::from_secs(5);
const LONGEST_OF_CLOCKS: Duration = Duration::from_mins(5);
const NOT_ALLOWED: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Option<Duration> = Some(Duration::from_hours(24));

    #[test]
    fn pauses_double_up_to_half_a_minute_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pauses.push(backoff.pause(DAY, 1.0).as_millis());
        }
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]
        );
        backoff.reset();
        assert_eq!(backoff.pause(DAY, 1.0).as_millis(), 500);
    }

    #[test]
    fn a_program_that_waits_for_its_files_waits_five_seconds_at_most() {
        let mut backoff = Backoff::of_init();
        let pauses = [0; 6].map(|_| backoff.pause(None, 1.0).as_millis());
        assert_eq!(pauses, [500, 1000, 2000, 4000, 5000, 5000]);
    }

    #[test]
    fn chance_takes_at_most_half_of_a_pause() {
        assert_eq!(Backoff::new().pause(DAY, 0.0).as_millis(), 250);
        assert_eq!(Backoff::new().pause(DAY, 0.5).as_millis(), 375);
        assert_eq!(pause_for_manifest(0.0).as_secs(), 10);
    }

    #[test]
    fn pauses_stay_short_when_little_is_left_and_not_when_nothing_is() {
        let tired = Backoff {
            next: LONGEST,
            ..Backoff::new()
        };
        let pause = |left| tired.clone().pause(left, 1.0);
        assert_eq!(pause(Some(Duration::from_secs(40))).as_secs(), 5);
        assert_eq!(pause(Some(Duration::from_secs(1))), SHORTEST);
        assert_eq!(pause(Some(Duration::ZERO)), LONGEST);
        assert_eq!(pause(None), LONGEST);
    }
}
