//! Whether the Coordinator can be had, for people and machines that watch.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{Contact, Why};

/// How it stands between this agent and the Coordinator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    trouble: Option<Trouble>,
}

/// Something is wrong, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) contact: Contact,
    pub(crate) since: Instant,
    pub(crate) why: String,
}

impl Health {
    /// What is wrong, if anything is.
    pub(crate) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// The Coordinator did what it was asked.
    pub(crate) fn is_well(&mut self) {
        self.trouble = None;
    }

    /// An attempt failed. The trouble is as old as its first failure.
    pub(crate) fn failed(&mut self, why: &Why, now: Instant) {
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble {
            contact: why.contact(),
            since,
            why: why.to_string(),
        });
    }
}

impl Trouble {
    /// Whether it is that the Coordinator can't be reached.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.contact == Contact::Unreachable
    }

    #[cfg(test)]
    pub(crate) fn unreachable_since(since: Instant) -> Self {
        Self {
            contact: Contact::Unreachable,
            since,
            why: "connection refused".to_owned(),
        }
    }

    /// How long it lasts.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

impl fmt::Display for Trouble {
    /// Without the reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.age(Instant::now()).as_secs();
        write!(f, "{} for {seconds} s", self.contact)
    }
}

/// When to raise the voice: at a third of the certificate's life, and each time that half of what
/// was left then is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alarm {
    next: f64,
}

impl Alarm {
    /// An alarm that was not raised yet.
    pub(crate) const fn new() -> Self {
        Self { next: FIRST }
    }

    /// Whether to raise it now, when `left` (in parts of the whole) of the life is left.
    pub(crate) fn is_due(&mut self, left: f64) -> bool {
        if left > FIRST {
            *self = Self::new();
        }
        if left > self.next {
            return false;
        }
        while left <= self.next && self.next > LAST {
            self.next /= 2.0;
        }
        // The last alarm is that of the end.
        if self.next <= LAST {
            self.next = f64::NEG_INFINITY;
        }
        true
    }
}

const FIRST: f64 = 1.0 / 3.0;

/// Below this part of a life there is nothing left to say.
const LAST: f64 = 0.001;

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> Why {
        Why::Deadline(Duration::from_secs(5))
    }

    #[test]
    fn an_outage_is_as_old_as_its_first_failure_and_over_with_the_first_success() {
        let start = Instant::now();
        let mut health = Health::default();
        assert_eq!(health.trouble(), None);
        health.failed(&unreachable(), start);
        let later = start + Duration::from_secs(7);
        health.failed(&unreachable(), later);
        let trouble = health.trouble().unwrap();
        assert!(trouble.is_unreachable());
        assert_eq!(trouble.age(later).as_secs(), 7);
        assert_eq!(trouble.why, "no answer within 5 s");
        health.is_well();
        assert_eq!(health.trouble(), None);
    }

    #[test]
    fn the_alarm_is_raised_at_a_third_and_at_each_half_of_what_is_left() {
        let mut alarm = Alarm::new();
        let raised =
            [0.9, 0.34, 0.33, 0.3, 0.17, 0.16, 0.1, 0.08, 0.0, -0.5].map(|left| alarm.is_due(left));
        assert_eq!(
            raised,
            [
                false, false, true, false, false, true, false, true, true, false
            ]
        );
    }

    #[test]
    fn a_new_certificate_sets_the_alarm_again() {
        let mut alarm = Alarm::new();
        assert!(alarm.is_due(0.2));
        assert!(!alarm.is_due(0.9));
        assert!(alarm.is_due(0.2));
    }
}
