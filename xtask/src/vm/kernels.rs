//! Which of Debian's cloud kernels the tests run on, and what they are called.

use std::fmt;

use anyhow::Result;

use super::apt::{self, Fetched};
use crate::process::{PlatformLacks, WrongUsage};

/// A series of releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Line {
    /// Debian 12's.
    V6_1,
    /// Debian 13's, also for Debian 12.
    V6_12,
}

impl Line {
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    fn as_str(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// What the names of its releases begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1.0-",
            Self::V6_12 => "6.12.",
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which of a line's two pinned releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    Newest,
    /// From before faults were mended that the agent must know of.
    Older,
}

/// A release that the tests run on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    line: Line,
    age: Age,
    /// As `uname -r` has it, less the flavour.
    pub(super) release: &'static str,
    /// The package's.
    pub(super) version: &'static str,
    /// What makes it interesting.
    pub(super) why: &'static str,
}

/// The one table of what is tested on; `docs/src/reference/vm.md` says how to change it.
pub(super) const PINS: [Pin; 4] = [
    Pin {
        line: Line::V6_1,
        age: Age::Newest,
        release: "6.1.0-56",
        version: "6.1.192-2",
        why: "newest of Debian 12",
    },
    Pin {
        line: Line::V6_1,
        age: Age::Older,
        release: "6.1.0-47",
        version: "6.1.170-3",
        why: "splice loses bytes, a sockmap takes TLS sockets",
    },
    Pin {
        line: Line::V6_12,
        age: Age::Newest,
        release: "6.12.117+deb12",
        version: "6.12.117-1~deb12u1",
        why: "newest of Debian 13, for 12",
    },
    Pin {
        line: Line::V6_12,
        age: Age::Older,
        release: "6.12.100+deb12",
        version: "6.12.100-1~deb12u1",
        why: "splice loses bytes, a sockmap takes TLS sockets",
    },
];

/// A kernel to be had, by name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    release: String,
    /// What may take its place where it is gone.
    instead: Option<(Line, Age)>,
}

impl Kernel {
    /// Takes `6.1` or `6.12`, a release such as `6.1.0-47` with or without its flavour, or a version
    /// such as `6.1.170`.
    pub(crate) fn named(name: &str) -> Result<Self> {
        if let Some(line) = Line::ALL.into_iter().find(|line| line.as_str() == name) {
            return Ok(Self::pinned(line, Age::Newest));
        }
        let short = name.strip_suffix(apt::FLAVOUR).unwrap_or(name);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".+-~".contains(c);
        if let Some(line) = line_of(short)
            && short.chars().all(is_plain)
        {
            let is_release = short.starts_with(line.prefix()) && short.contains(['-', '+']);
            let release = if is_release {
                Some(short.to_owned())
            } else {
                release_of_version(line, short)?
            };
            if let Some(release) = release {
                return Ok(Self {
                    release,
                    instead: None,
                });
            }
        }
        let what = format!("no kernel is called `{name}`; say 6.1, 6.12, or one that --list shows");
        Err(WrongUsage(what).into())
    }

    /// A pinned one.
    pub(crate) fn pinned(line: Line, age: Age) -> Self {
        let pin = PINS.iter().find(|pin| (pin.line, pin.age) == (line, age));
        Self {
            release: pin.map_or("", |pin| pin.release).to_owned(),
            instead: Some((line, age)),
        }
    }

    /// Downloads and unpacks it, unless it is here. A pinned release that is gone gives way, loudly,
    /// to the newest of its line, or to the oldest where it was an older one.
    pub(crate) fn fetch(&self) -> Result<Fetched> {
        let pin = PINS.iter().find(|pin| pin.release == self.release);
        let error = match apt::fetch(&self.release, pin.map(|pin| pin.version)) {
            Ok(fetched) => return Ok(fetched),
            Err(error) => error,
        };
        let Some((line, age)) = self.instead else {
            return Err(error);
        };
        let mut there = apt::available(line)?.into_iter();
        let other = match age {
            Age::Newest => there.next_back(),
            Age::Older => there.next(),
        };
        let Some(other) = other else {
            return Err(PlatformLacks(format!(
                "no kernel of the line {line} can be had: {error:#}"
            ))
            .into());
        };
        eprintln!(
            "warning: {} can't be had, taking {} in its place: {error:#}",
            self.release, other.release
        );
        apt::fetch(&other.release, None)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.release)
    }
}

fn line_of(name: &str) -> Option<Line> {
    Line::ALL.into_iter().find(|line| {
        name.strip_prefix(line.as_str())
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// `6.1.0-47` of `6.1.170`.
fn release_of_version(line: Line, version: &str) -> Result<Option<String>> {
    let is_it = |whole: &str| {
        whole
            .strip_prefix(version)
            .is_some_and(|rest| rest.starts_with('-'))
    };
    if let Some(pin) = PINS.iter().find(|pin| is_it(pin.version)) {
        return Ok(Some(pin.release.to_owned()));
    }
    let mut there = apt::available(line)?.into_iter();
    Ok(there
        .find(|other| is_it(&other.version))
        .map(|other| other.release))
}

/// Prints what can be had and what is here.
pub(super) fn list() -> Result<()> {
    for line in Line::ALL {
        for kernel in apt::available(line)? {
            let pin = PINS.iter().find(|pin| pin.release == kernel.release);
            let line = format!(
                "{:<16} {:<20} {:<5} {}",
                kernel.release,
                kernel.version,
                if apt::is_here(&kernel.release) {
                    "here"
                } else {
                    ""
                },
                pin.map_or("", |pin| pin.why)
            );
            println!("{}", line.trim_end());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(name: &str) -> String {
        Kernel::named(name).unwrap().release
    }

    #[test]
    fn a_line_is_its_newest_pin() {
        let kernel = Kernel::named("6.1").unwrap();
        assert_eq!(kernel, Kernel::pinned(Line::V6_1, Age::Newest));
        assert_eq!(kernel.release, "6.1.0-56");
        assert_eq!(release("6.12"), "6.12.117+deb12");
    }

    #[test]
    fn a_release_may_have_its_flavour_and_nothing_may_take_its_place() {
        let plain = Kernel::named("6.12.100+deb12").unwrap();
        assert_eq!(Kernel::named("6.12.100+deb12-cloud-amd64").unwrap(), plain);
        assert_eq!(plain.instead, None);
        assert_eq!(release("6.1.0-50"), "6.1.0-50");
    }

    #[test]
    fn a_version_is_the_release_that_has_it() {
        assert_eq!(release("6.1.170"), "6.1.0-47");
        assert_eq!(release("6.12.100"), "6.12.100+deb12");
    }

    #[test]
    fn another_name_is_none() {
        for name in [
            "",
            "6",
            "6.2",
            "6.1x",
            "5.10.0-1",
            "latest",
            "../6.1.0-47",
            "6.1.0-47/../..",
            "6.1.0-47 -o x",
        ] {
            assert!(Kernel::named(name).is_err(), "{name}");
        }
    }

    #[test]
    fn every_line_has_a_newest_and_an_older_pin() {
        for line in Line::ALL {
            for age in [Age::Newest, Age::Older] {
                let pins = PINS.iter().filter(|pin| (pin.line, pin.age) == (line, age));
                assert_eq!(pins.count(), 1);
            }
            let number = |age| apt::numbers(&Kernel::pinned(line, age).release);
            assert!(number(Age::Older) < number(Age::Newest));
        }
    }
}
