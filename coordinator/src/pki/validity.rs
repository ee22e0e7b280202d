use std::fmt;
use std::time::Duration;

use thiserror::Error;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// When a certificate is valid: both ends included, in whole seconds, UTC (RFC 5280, section 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Validity {
    /// How long before its issue a certificate is already valid, for peers whose clock is late.
    pub const BACKDATED: time::Duration = time::Duration::minutes(5);

    /// The same for a CA: one that was made while the clock was ahead is of use when it is right
    /// again. How early a CA's own validity begins says nothing of the certificates under it.
    pub const CA_BACKDATED: time::Duration = time::Duration::days(7);

    /// From `not_before` to `not_after`, either of which may be past or future.
    pub fn between(
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Result<Self, ValidityError> {
        let not_before = whole_seconds(not_before)?;
        let not_after = whole_seconds(not_after)?;
        if not_after < not_before {
            return Err(ValidityError::EndsBeforeItBegins {
                not_before,
                not_after,
            });
        }
        Ok(Self {
            not_before,
            not_after,
        })
    }

    /// For `lifetime` from `now` on, and [`BACKDATED`](Self::BACKDATED).
    pub fn lasting(now: OffsetDateTime, lifetime: Duration) -> Result<Self, ValidityError> {
        Self::backdated(now, Self::BACKDATED, lifetime)
    }

    /// For a CA that lives `lifetime` from `now` on, and [`CA_BACKDATED`](Self::CA_BACKDATED).
    pub fn of_ca(now: OffsetDateTime, lifetime: Duration) -> Result<Self, ValidityError> {
        Self::backdated(now, Self::CA_BACKDATED, lifetime)
    }

    fn backdated(
        now: OffsetDateTime,
        by: time::Duration,
        lifetime: Duration,
    ) -> Result<Self, ValidityError> {
        let not_before = now.checked_sub(by).ok_or(ValidityError::Year)?;
        Self::between(not_before, later(now, lifetime)?)
    }

    /// For `lifetime` from `not_before` on.
    pub fn starting(not_before: OffsetDateTime, lifetime: Duration) -> Result<Self, ValidityError> {
        Self::between(not_before, later(not_before, lifetime)?)
    }

    /// Whether `time` is within.
    pub fn contains(&self, time: OffsetDateTime) -> bool {
        (self.not_before..=self.not_after).contains(&time)
    }

    /// The first second of validity.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// The last second of validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, until) = (rfc3339(self.not_before), rfc3339(self.not_after));
        write!(f, "from {from} until {until}")
    }
}

/// Why two times are not a validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ValidityError {
    /// The ends are swapped.
    #[error(
        "a certificate cannot be valid from {} until {}: the end is before the beginning",
        rfc3339(*not_before), rfc3339(*not_after)
    )]
    EndsBeforeItBegins {
        /// The beginning asked for.
        not_before: OffsetDateTime,
        /// The end asked for.
        not_after: OffsetDateTime,
    },
    /// X.509 has no such date, or it makes no sense.
    #[error("a certificate's dates lie in the years 1950 to 9999")]
    Year,
}

pub(super) fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

fn later(time: OffsetDateTime, lifetime: Duration) -> Result<OffsetDateTime, ValidityError> {
    time::Duration::try_from(lifetime)
        .ok()
        .and_then(|lifetime| time.checked_add(lifetime))
        .ok_or(ValidityError::Year)
}

fn whole_seconds(time: OffsetDateTime) -> Result<OffsetDateTime, ValidityError> {
    time.checked_to_offset(UtcOffset::UTC)
        .filter(|time| (1950..=9999).contains(&time.year()))
        .map(OffsetDateTime::truncate_to_second)
        .ok_or(ValidityError::Year)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00:00.75 UTC);

    #[test]
    fn a_lifetime_counts_from_now_and_is_backdated_five_minutes() {
        let validity = Validity::lasting(NOON, Duration::from_hours(24)).unwrap();
        assert_eq!(rfc3339(validity.not_before()), "2026-11-21T11:55:00Z");
        assert_eq!(rfc3339(validity.not_after()), "2026-11-22T12:00:00Z");
    }

    #[test]
    fn a_ca_is_backdated_a_week() {
        let validity = Validity::of_ca(NOON, Duration::from_hours(24)).unwrap();
        assert_eq!(rfc3339(validity.not_before()), "2026-11-14T12:00:00Z");
        assert_eq!(rfc3339(validity.not_after()), "2026-11-22T12:00:00Z");
    }

    #[test]
    fn an_end_before_the_beginning_is_refused() {
        let earlier = NOON - Duration::from_secs(1);
        assert!(matches!(
            Validity::between(NOON, earlier),
            Err(ValidityError::EndsBeforeItBegins { .. })
        ));
        assert!(Validity::between(NOON, NOON).is_ok());
    }

    #[test]
    fn dates_that_x509_cannot_write_are_refused() {
        let too_long = Validity::lasting(NOON, Duration::from_secs(u64::MAX));
        assert_eq!(too_long, Err(ValidityError::Year));
        let ancient = OffsetDateTime::from_unix_timestamp(-1_000_000_000).unwrap();
        assert_eq!(Validity::between(ancient, NOON), Err(ValidityError::Year));
    }
}
