//! Values that several commands take.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A span of time: a whole number and a unit, such as `24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime(pub(crate) Duration);

impl FromStr for Lifetime {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let seconds_per_unit = match &text[digits.len()..] {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            _ => bail!("expected a whole number and a unit (s, m, h, d), such as 24h"),
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(seconds_per_unit))
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .context("expected a whole number above 0 and a unit (s, m, h, d), such as 24h")
    }
}

/// Parses a point in time such as `2026-11-21T12:00:00Z`.
pub(crate) fn rfc3339(text: &str) -> anyhow::Result<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339)
        .context("expected a time in RFC 3339 form, such as 2026-11-21T12:00:00Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_a_number_and_a_unit() {
        for (text, seconds) in [("2s", 2), ("90m", 5400), ("24h", 86_400), ("7d", 604_800)] {
            let Lifetime(duration) = text.parse().unwrap();
            assert_eq!(duration, Duration::from_secs(seconds), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_lifetime() {
        for text in [
            "",
            "24",
            "h",
            "0h",
            "-1h",
            "1.5h",
            "1h30m",
            "1 h",
            "1H",
            "1é",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert!(text.parse::<Lifetime>().is_err(), "{text}");
        }
    }
}
