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
/// Timed by the clock that only goes on. The calendar is asked too, for the time that a machine was
/// suspended, but only where it agreed with the Coordinator's when the certificate came: else a
/// clock that is ahead would have each certificate replaced at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal {
    received: Now,
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
        let has_begun = now.calendar >= not_before;
        let agrees = has_begun && by_calendar > by_coordinator / 2;
        let life = if agrees {
            by_coordinator.min(by_calendar)
        } else {
            by_coordinator
        };
        Self {
            received: now,
            life,
            after: life.mul_f64(2.0 / 3.0 * (0.9 + 0.2 * fraction)),
            agrees,
        }
    }

    /// Whether this machine's calendar agreed with the certificate when it came.
    pub(crate) fn calendar_agrees(&self) -> bool {
        self.agrees
    }

    /// Whether it is time.
    pub(crate) fn is_due(&self, now: Now) -> bool {
        now.instant.saturating_duration_since(self.received.instant) >= self.after
            || self.agrees && self.age_by_calendar(now) >= self.after
    }

    /// How long to wait until [`Renewal::is_due`] should be asked again.
    pub(crate) fn wait(&self, now: Now) -> Duration {
        let age = now.instant.saturating_duration_since(self.received.instant);
        self.after.saturating_sub(age).min(LOOK_AGAIN)
    }

    /// How much of its life is left, in parts of the whole.
    pub(crate) fn left(&self, now: Now) -> f64 {
        let mut age = now.instant.saturating_duration_since(self.received.instant);
        if self.agrees {
            age = age.max(self.age_by_calendar(now));
        }
        1.0 - age.as_secs_f64() / self.life.as_secs_f64()
    }

    /// When its life is over, by the clock that only goes on.
    pub(crate) fn end(&self) -> Instant {
        self.received.instant + self.life
    }

    fn age_by_calendar(&self, now: Now) -> Duration {
        now.calendar
            .duration_since(self.received.calendar)
            .unwrap_or_default()
    }
}

/// Certificates are valid this long before they are issued, for clocks that are late; the
/// Coordinator's `Validity::BACKDATED`.
const BACKDATED: Duration = Duration::from_mins(5);

/// The shortest that a manifest can ask for.
const SHORTEST_LIFE: Duration = Duration::from_secs(10);

/// The calendar may have jumped meanwhile.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

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
    fn waiting_ends_when_it_is_due_or_after_a_minute() {
        let clocks = Clocks::new();
        let renewal = Renewal::new(clocks.validity(DAY), clocks.start, 0.5);
        assert_eq!(renewal.wait(clocks.start), LOOK_AGAIN);
        assert_eq!(
            renewal
                .wait(clocks.after(Duration::from_secs(57_590)))
                .as_secs(),
            10
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
    fn a_clock_set_back_by_a_day_delays_nothing() {
        let clocks = Clocks::new();
        let renewal = Renewal::new(clocks.validity(DAY), clocks.start, 0.5);
        let set_back = Now {
            instant: clocks.start.instant + 17 * HOUR,
            calendar: clocks.start.calendar - 7 * HOUR,
        };
        assert!(renewal.is_due(set_back));
        let anew = Renewal::new(clocks.validity(DAY), clocks.behind(DAY), 0.5);
        assert!(!anew.calendar_agrees());
        let start = clocks.behind(DAY);
        assert!(!anew.is_due(later(start, 15 * HOUR)));
        assert!(anew.is_due(later(start, 17 * HOUR)));
    }

    #[test]
    fn a_clock_set_ahead_by_a_day_or_by_nearly_a_life_causes_one_renewal_and_no_loop() {
        let clocks = Clocks::new();
        for ahead in [DAY, Duration::from_secs(86_390), 20 * HOUR] {
            let renewal = Renewal::new(clocks.validity(DAY), clocks.start, 0.5);
            assert!(renewal.is_due(clocks.ahead(ahead)), "{ahead:?}");
            let start = clocks.ahead(ahead);
            let anew = Renewal::new(clocks.validity(DAY), start, 0.5);
            assert!(!anew.calendar_agrees(), "{ahead:?}");
            assert!(!anew.is_due(later(start, 15 * HOUR)), "{ahead:?}");
            assert!(anew.is_due(later(start, 17 * HOUR)), "{ahead:?}");
        }
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
    fn a_validity_that_makes_no_sense_is_waited_out_all_the_same() {
        let clocks = Clocks::new();
        let backwards = Validity {
            not_before: clocks.start.calendar + HOUR,
            not_after: clocks.start.calendar - HOUR,
        };
        let renewal = Renewal::new(backwards, clocks.start, 0.5);
        assert!(!renewal.is_due(clocks.start));
        assert!(renewal.is_due(clocks.after(SHORTEST_LIFE)));
    }
}
