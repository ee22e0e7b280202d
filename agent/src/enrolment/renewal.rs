//! When a certificate is to be replaced: a function of the certificate and two clocks.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use userspace_tls::Validity;

/// A moment by the clock that only goes on, and by the calendar, which may jump.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) calendar: SystemTime,
}

impl Now {
    /// This moment.
    pub(crate) fn read() -> Self {
        Self {
            instant: Instant::now(),
            calendar: SystemTime::now(),
        }
    }
}

/// The end of one certificate's use: at two thirds of its life, give or take a tenth of that.
///
/// Timed by the clock that only goes on, and by the calendar, for the time that a machine was
/// suspended. Where the calendar puts the certificate outside of its validity, another is asked for
/// at once, since either clock may have been set right meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal {
    received: Now,
    validity: Validity,
    life: Duration,
    after: Duration,
    agrees: bool,
}

impl Renewal {
    /// For a certificate that is received `now`; `fraction` (0 to 1) is chance.
    pub(crate) fn new(validity: Validity, now: Now, fraction: f64) -> Self {
        let Validity {
            not_before,
            not_after,
        } = validity;
        let by_coordinator = not_after
            .duration_since(not_before)
            .unwrap_or_default()
            .saturating_sub(BACKDATED)
            .max(SHORTEST_LIFE);
        let by_calendar = not_after.duration_since(now.calendar).unwrap_or_default();
        let life = if validity.contains(now.calendar) {
            by_coordinator.min(by_calendar)
        } else {
            by_coordinator
        };
        let part = 2.0 / 3.0 * (0.9 + 0.2 * fraction);
        // A clock that is ahead by nearly a life must not have each certificate replaced at once.
        let shortest = by_coordinator.mul_f64(part).min(SHORTEST_USE);
        Self {
            received: now,
            validity,
            life,
            after: life.mul_f64(part).max(shortest),
            agrees: life > by_coordinator / 2 && validity.contains(now.calendar),
        }
    }

    /// When the certificate is valid.
    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether this machine's calendar agreed with the certificate when it came.
    pub(crate) fn calendar_agrees(&self) -> bool {
        self.agrees
    }

    /// Whether the certificate is valid by this machine's calendar.
    pub(crate) fn is_valid(&self, now: Now) -> bool {
        self.validity.contains(now.calendar)
    }

    /// Whether it is time.
    pub(crate) fn is_due(&self, now: Now) -> bool {
        self.age(now) >= self.after || !self.is_valid(now) || !self.is_valid(self.received)
    }

    /// How long to wait until [`Renewal::is_due`] should be asked again.
    pub(crate) fn wait(&self, now: Now) -> Duration {
        let age = now.instant.saturating_duration_since(self.received.instant);
        self.after.saturating_sub(age).min(LOOK_AGAIN)
    }

    /// How much of its life is left, in parts of the whole.
    pub(crate) fn left(&self, now: Now) -> f64 {
        1.0 - self.age(now).as_secs_f64() / self.life.as_secs_f64()
    }

    /// When its life is over, by the clock that only goes on.
    pub(crate) fn end(&self) -> Instant {
        self.received.instant + self.life
    }

    fn age(&self, now: Now) -> Duration {
        let age = now.instant.saturating_duration_since(self.received.instant);
        let by_calendar = now.calendar.duration_since(self.received.calendar);
        age.max(by_calendar.unwrap_or_default())
    }
}

/// Certificates are valid this long before they are issued, for clocks that are late; the
/// Coordinator's `Validity::BACKDATED`.
const BACKDATED: Duration = Duration::from_mins(5);

/// The shortest that a manifest can ask for.
const SHORTEST_LIFE: Duration = Duration::from_secs(10);

/// Whatever the calendar says of how much is left, a certificate that came valid is used for this
/// long, or for two thirds of the life that the Coordinator gave it.
const SHORTEST_USE: Duration = Duration::from_mins(5);

/// The calendar may have jumped meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const DAY: Duration = Duration::from_hours(24);

    struct Clocks {
        start: Now,
    }

    impl Clocks {
        fn new() -> Self {
            let calendar = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
            Self {
                start: Now {
                    instant: Instant::now(),
                    calendar,
                },
            }
        }

        /// Issued now by a Coordinator whose clock is right.
        fn validity(&self, lifetime: Duration) -> Validity {
            Validity {
                not_before: self.start.calendar - BACKDATED,
                not_after: self.start.calendar + lifetime,
            }
        }

        fn after(&self, passed: Duration) -> Now {
            self.moved(passed, passed)
        }

        fn moved(&self, passed: Duration, by_calendar: Duration) -> Now {
            Now {
                instant: self.start.instant + passed,
                calendar: self.start.calendar + by_calendar,
            }
        }

        fn ahead(&self, by: Duration) -> Now {
            self.moved(Duration::ZERO, by)
        }

        fn behind(&self, by: Duration) -> Now {
            Now {
                calendar: self.start.calendar - by,
                ..self.start
            }
        }
    }

    fn later(now: Now, by: Duration) -> Now {
        Now {
            instant: now.instant + by,
            calendar: now.calendar + by,
        }
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_give_or_take_a_tenth() {
        let clocks = Clocks::new();
        for (lifetime, fraction, seconds) in [
            (DAY, 0.5, 57_600.0),
            (DAY, 0.0, 51_840.0),
            (DAY, 1.0, 63_360.0),
            (Duration::from_secs(10), 0.5, 6.667),
        ] {
            let renewal = Renewal::new(clocks.validity(lifetime), clocks.start, fraction);
            let at = Duration::from_secs_f64(seconds);
            let slack = Duration::from_millis(10);
            assert!(
                !renewal.is_due(clocks.after(at.saturating_sub(slack))),
                "{lifetime:?}"
            );
            assert!(renewal.is_due(clocks.after(at + slack)), "{lifetime:?}");
        }
    }

    #[test]
    fn waiting_ends_when_it_is_due_or_after_some_seconds() {
        let clocks = Clocks::new();
        let renewal = Renewal::new(clocks.validity(DAY), clocks.start, 0.5);
        assert_eq!(renewal.wait(clocks.start), LOOK_AGAIN);
        assert_eq!(
            renewal
                .wait(clocks.after(Duration::from_secs(57_597)))
                .as_secs(),
            3
        );
        assert_eq!(renewal.wait(clocks.after(DAY)), Duration::ZERO);
    }

    #[test]
    fn a_suspended_machine_renews_when_it_wakes() {
        let clocks = Clocks::new();
        let renewal = Renewal::new(clocks.validity(DAY), clocks.start, 0.5);
        assert!(renewal.is_due(clocks.moved(LOOK_AGAIN, 20 * HOUR)));
    }

    #[test]
    fn a_clock_set_back_a_little_delays_nothing() {
        let clocks = Clocks::new();
        let renewal = Renewal::new(clocks.validity(DAY), clocks.start, 0.5);
        let set_back = |passed| clocks.moved(passed, Duration::ZERO);
        assert!(!renewal.is_due(set_back(15 * HOUR)));
        assert!(renewal.is_due(set_back(17 * HOUR)));
    }

    #[test]
    fn a_certificate_that_a_jump_of_the_clock_makes_invalid_is_due_at_once() {
        let clocks = Clocks::new();
        let renewal = Renewal::new(clocks.validity(DAY), clocks.start, 0.5);
        for jumped in [clocks.ahead(DAY + HOUR), clocks.behind(DAY)] {
            assert!(!renewal.is_valid(jumped));
            assert!(renewal.is_due(jumped));
        }
    }

    #[test]
    fn a_certificate_that_came_invalid_is_due_until_another_takes_its_place() {
        let clocks = Clocks::new();
        for start in [clocks.ahead(DAY + HOUR), clocks.behind(DAY)] {
            let renewal = Renewal::new(clocks.validity(DAY), start, 0.5);
            assert!(!renewal.calendar_agrees());
            assert!(renewal.is_due(start));
            // Valid by now, but the Coordinator's clock may be the one that is wrong.
            assert!(renewal.is_due(clocks.start));
        }
    }

    #[test]
    fn a_clock_that_is_ahead_by_nearly_a_life_causes_no_loop() {
        let clocks = Clocks::new();
        for (ahead, seconds) in [
            (Duration::from_hours(23), 2400),
            (20 * HOUR, 9600),
            // Refused for most of the time, but not asked for all the time.
            (Duration::from_secs(86_050), 300),
        ] {
            let start = clocks.ahead(ahead);
            let renewal = Renewal::new(clocks.validity(DAY), start, 0.5);
            assert!(!renewal.calendar_agrees(), "{ahead:?}");
            let due_after = |seconds| renewal.is_due(later(start, Duration::from_secs(seconds)));
            assert!(!due_after(seconds - 1), "{ahead:?}");
            assert!(due_after(seconds + 1), "{ahead:?}");
        }
    }

    #[test]
    fn a_short_life_is_renewed_in_time_by_a_clock_that_is_right() {
        let clocks = Clocks::new();
        let renewal = Renewal::new(clocks.validity(Duration::from_mins(1)), clocks.start, 0.5);
        assert!(renewal.calendar_agrees());
        assert!(!renewal.is_due(clocks.after(Duration::from_secs(39))));
        assert!(renewal.is_due(clocks.after(Duration::from_secs(41))));
    }

    #[test]
    fn what_is_left_goes_from_one_to_nothing() {
        let clocks = Clocks::new();
        let renewal = Renewal::new(clocks.validity(DAY), clocks.start, 0.5);
        assert!((renewal.left(clocks.start) - 1.0).abs() < 1e-9);
        assert!((renewal.left(clocks.after(16 * HOUR)) - 1.0 / 3.0).abs() < 1e-9);
        assert!(renewal.left(clocks.after(25 * HOUR)) < 0.0);
    }

    #[test]
    fn a_validity_that_makes_no_sense_is_none() {
        let clocks = Clocks::new();
        let backwards = Validity {
            not_before: clocks.start.calendar + HOUR,
            not_after: clocks.start.calendar - HOUR,
        };
        let renewal = Renewal::new(backwards, clocks.start, 0.5);
        assert!(renewal.is_due(clocks.start));
        assert!(renewal.left(clocks.start) > 0.0);
    }
}
