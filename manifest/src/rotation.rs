//! How certificates follow the manifest, and how long they last.

use std::fmt;
use std::time::Duration;

use crate::read::Object;

/// How an update of the manifest takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Whether the old mesh CA stays trusted meanwhile.
    pub mode: RotationMode,
    /// How long each step waits for agents that have not acknowledged it.
    pub deadline: Duration,
}

/// Whether connections outlive an update of the manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RotationMode {
    /// The old mesh CA stays trusted until every agent has a certificate of the new one, or the
    /// deadline has passed.
    #[default]
    Graceful,
    /// The old mesh CA is withdrawn at once.
    Strict,
}

impl RotationMode {
    /// The name in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Strict => "strict",
        }
    }
}

impl fmt::Display for RotationMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

pub(crate) fn rotation(root: &Object<'_>) -> Rotation {
    let object = root
        .optional("Rotation")
        .and_then(|cursor| cursor.object(&["Mode", "DeadlineSeconds"]));
    let modes = [RotationMode::Graceful, RotationMode::Strict].map(|mode| (mode.as_str(), mode));
    let mode = object
        .as_ref()
        .and_then(|object| object.optional("Mode")?.one_of(&modes));
    let deadline = object.and_then(|object| {
        let cursor = object.optional("DeadlineSeconds")?;
        cursor.integer(1..=MAX_DEADLINE_SECONDS)
    });
    Rotation {
        mode: mode.unwrap_or_default(),
        deadline: deadline.map_or(DEFAULT_DEADLINE, Duration::from_secs),
    }
}

pub(crate) fn certificate_lifetime(root: &Object<'_>) -> Duration {
    root.optional("CertificateLifetime")
        .and_then(|cursor| {
            let lifetime = parse_lifetime(cursor.string()?);
            if lifetime.is_none() {
                cursor.reject("a whole number and s, m, h or d, from 10s to 30d");
            }
            lifetime
        })
        .unwrap_or(DEFAULT_LIFETIME)
}

fn parse_lifetime(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let seconds_per_unit = match unit {
        's' => 1,
        'm' => MINUTE,
        'h' => HOUR,
        'd' => DAY,
        _ => return None,
    };
    let digits = text.strip_suffix(unit)?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let lifetime = Duration::from_secs(number.checked_mul(seconds_per_unit)?);
    (MIN_LIFETIME..=MAX_LIFETIME)
        .contains(&lifetime)
        .then_some(lifetime)
}

/// `duration` in the form of the manifest, such as `90m`: in the largest unit that gives a whole
/// number, but for one day, which is `24h`. Fractions of a second are left out.
pub fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (unit, name) = [(DAY, 'd'), (HOUR, 'h'), (MINUTE, 'm')]
        .into_iter()
        .filter(|(unit, _)| seconds != DAY || *unit != DAY)
        .find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit))
        .unwrap_or((1, 's'));
    format!("{}{name}", seconds / unit)
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const DEFAULT_DEADLINE: Duration = Duration::from_mins(5);
const MAX_DEADLINE_SECONDS: u64 = DAY;

const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);

/// Renewal at two thirds leaves a few seconds.
const MIN_LIFETIME: Duration = Duration::from_secs(10);

/// There is no revocation: expiry is what ends a stolen certificate.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * DAY);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_a_number_and_a_unit_within_bounds() {
        for (text, seconds) in [
            ("10s", 10),
            ("5m", 300),
            ("24h", 86_400),
            ("1d", 86_400),
            ("30d", 2_592_000),
        ] {
            let expected = Some(Duration::from_secs(seconds));
            assert_eq!(parse_lifetime(text), expected, "{text}");
        }
        for text in [
            "",
            "s",
            "9s",
            "0h",
            "31d",
            "721h",
            "+24h",
            "-1h",
            "1.5h",
            "24",
            "24 h",
            "24H",
            "1h30m",
            "1é",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert_eq!(parse_lifetime(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_given_in_the_unit_that_fits() {
        for (seconds, text) in [
            (10, "10s"),
            (90, "90s"),
            (60, "1m"),
            (300, "5m"),
            (3600, "1h"),
            (86_400, "24h"),
            (172_800, "2d"),
            (3601, "3601s"),
        ] {
            assert_eq!(in_words(Duration::from_secs(seconds)), text);
        }
    }
}
