//! Debian's cloud kernels: which there are, and how they get here.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    packages,
    process::{self, PlatformLacks},
    workspace,
};

/// A series of releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    fn prefix(self) -> &'static str {
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

/// A release that the tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pin {
    line: Line,
    /// As `uname -r` has it, less the flavour.
    release: &'static str,
    /// Of the package.
    version: &'static str,
    /// What makes it interesting.
    why: &'static str,
}

/// The newest of each line, and one from before the faults that matter were mended
/// (`docs/src/reference/vm.md`).
const PINS: [Pin; 4] = [
    Pin {
        line: Line::V6_1,
        release: "6.1.0-56",
        version: "6.1.192-2",
        why: "newest",
    },
    Pin {
        line: Line::V6_1,
        release: "6.1.0-47",
        version: "6.1.170-3",
        why: "loses bytes in splice, lets a TLS socket into a sockmap",
    },
    Pin {
        line: Line::V6_12,
        release: "6.12.117+deb12",
        version: "6.12.117-1~deb12u1",
        why: "newest",
    },
    Pin {
        line: Line::V6_12,
        release: "6.12.100+deb12",
        version: "6.12.100-1~deb12u1",
        why: "loses bytes in splice, lets a TLS socket into a sockmap",
    },
];

/// A release, known by name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    release: String,
    /// What to take where it is gone.
    line: Option<Line>,
}

impl Kernel {
    /// Takes `6.1`, `6.12`, or a release with or without its flavour.
    pub(crate) fn named(name: &str) -> Result<Self> {
        if let Some(line) = Line::ALL.into_iter().find(|line| line.as_str() == name) {
            return Ok(Self::newest(line));
        }
        let release = name.strip_suffix(FLAVOUR).unwrap_or(name);
        let known = Line::ALL
            .into_iter()
            .any(|line| release.starts_with(line.prefix()));
        if !known {
            bail!("no kernel is called `{name}`; say 6.1, 6.12, or a release of `--list`");
        }
        Ok(Self {
            release: release.to_owned(),
            line: None,
        })
    }

    /// The newest of a line.
    pub(crate) fn newest(line: Line) -> Self {
        Self::pinned(line, |pin| pin.why == "newest")
    }

    /// The one of a line that has its old faults.
    pub(crate) fn older(line: Line) -> Self {
        Self::pinned(line, |pin| pin.why != "newest")
    }

    fn pinned(line: Line, which: impl Fn(&Pin) -> bool) -> Self {
        let pin = PINS
            .iter()
            .find(|pin| pin.line == line && which(pin))
            .map_or("", |pin| pin.release);
        Self {
            release: pin.to_owned(),
            line: Some(line),
        }
    }

    /// Downloads and unpacks it, unless it is here. A pinned release that is gone gives way, loudly,
    /// to the newest of its line.
    pub(crate) fn fetch(&self) -> Result<Fetched> {
        packages::ensure(&TOOLS)?;
        let error = match fetch(&self.release) {
            Ok(fetched) => return Ok(fetched),
            Err(error) => error,
        };
        let Some(line) = self.line else {
            return Err(error);
        };
        let Some(release) = available(line)?.pop() else {
            return Err(PlatformLacks(format!(
                "no kernel of the line {line} can be had: {error:#}"
            ))
            .into());
        };
        eprintln!(
            "warning: {} can't be had ({error:#}); taking {release}",
            self.release
        );
        fetch(&release)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.release)
    }
}

/// A release that is unpacked here.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// As `uname -r` has it.
    pub(crate) release: String,
    directory: PathBuf,
}

impl Fetched {
    pub(crate) fn image(&self) -> PathBuf {
        self.directory
            .join("boot")
            .join(format!("vmlinuz-{}", self.release))
    }

    pub(crate) fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }
}

/// Prints what can be had and what is here.
pub(crate) fn list() -> Result<()> {
    for line in Line::ALL {
        for release in available(line)? {
            let pin = PINS.iter().find(|pin| pin.release == release);
            let here = if cache().join(&release).exists() {
                "here"
            } else {
                ""
            };
            let why = pin.map_or(String::new(), |pin| {
                format!("{} ({})", pin.version, pin.why)
            });
            println!("{release:<24} {here:<5} {why}");
        }
    }
    Ok(())
}

/// The releases of a line that can be downloaded, oldest first.
fn available(line: Line) -> Result<Vec<String>> {
    let names = process::stdout_of(
        Command::new("apt-cache").args(["pkgnames", &format!("{PACKAGE}{}", line.prefix())]),
    )
    .context("asking apt for kernels")?;
    let mut releases: Vec<String> = names
        .lines()
        .filter_map(|name| name.strip_prefix(PACKAGE)?.strip_suffix(FLAVOUR))
        .filter(|release| has_candidate(release))
        .map(str::to_owned)
        .collect();
    releases.sort_by_key(|release| numbers(release));
    Ok(releases)
}

/// apt knows names of packages that no source has any more.
fn has_candidate(release: &str) -> bool {
    let package = format!("{PACKAGE}{release}{FLAVOUR}");
    process::stdout_of(Command::new("apt-cache").args(["policy", &package])).is_ok_and(|policy| {
        policy.lines().any(|line| {
            line.trim()
                .strip_prefix("Candidate: ")
                .is_some_and(|it| it != "(none)")
        })
    })
}

fn numbers(release: &str) -> Vec<u32> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn fetch(release: &str) -> Result<Fetched> {
    let directory = cache().join(release);
    let fetched = Fetched {
        release: format!("{release}{FLAVOUR}"),
        directory,
    };
    if !fetched.directory.exists() {
        download(release, &fetched.directory)?;
    }
    if !fetched.image().exists() {
        bail!(
            "{} has no kernel; remove it and try again",
            fetched.directory.display()
        );
    }
    Ok(fetched)
}

/// Complete or not there: it is unpacked beside its place.
fn download(release: &str, directory: &Path) -> Result<()> {
    let package = format!("{PACKAGE}{release}{FLAVOUR}");
    process::step(format!("downloading {package}"));
    let unpacked = directory.with_extension("part");
    let _ = fs::remove_dir_all(&unpacked);
    fs::create_dir_all(&unpacked).with_context(|| format!("making {}", unpacked.display()))?;
    let script = process::run(
        process::quiet_stdout("sh")
            .current_dir(&unpacked)
            .args(["-euc", DOWNLOAD, "sh", &package]),
    );
    script.with_context(|| format!("getting {package}"))?;
    fs::rename(&unpacked, directory).with_context(|| format!("making {}", directory.display()))
}

/// As root apt gives the download to a user that may not write here; it says so, and does it all the
/// same.
const DOWNLOAD: &str = r#"
apt-get -qq download "$1" 2>/dev/null || { apt-get -qq update && apt-get -qq download "$1"; }
dpkg-deb -x ./*.deb .
rm ./*.deb
depmod -b . "$(ls lib/modules)"
"#;

/// Git ignores it.
fn cache() -> PathBuf {
    workspace::target().join("vm/kernels")
}

const PACKAGE: &str = "linux-image-";
const FLAVOUR: &str = "-cloud-amd64";

/// The emulator, and what makes the root file system.
const TOOLS: [&str; 6] = [
    "qemu-system-x86",
    "busybox-static",
    "kmod",
    "cpio",
    "xz-utils",
    "binutils",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_its_newest_release() {
        let kernel = Kernel::named("6.1").unwrap();
        assert_eq!(kernel, Kernel::newest(Line::V6_1));
        assert!(kernel.release.starts_with("6.1.0-"));
        assert_ne!(Kernel::older(Line::V6_1).release, kernel.release);
    }

    #[test]
    fn a_release_may_have_its_flavour() {
        let plain = Kernel::named("6.12.100+deb12").unwrap();
        assert_eq!(Kernel::named("6.12.100+deb12-cloud-amd64").unwrap(), plain);
        assert_eq!(plain.line, None);
    }

    #[test]
    fn another_name_is_none() {
        for name in ["", "6", "6.2", "5.10.0-1", "latest", "../6.1.0-47"] {
            assert!(Kernel::named(name).is_err(), "{name}");
        }
    }

    #[test]
    fn every_line_has_a_newest_and_an_older_pin() {
        for line in Line::ALL {
            let pins = PINS.iter().filter(|pin| pin.line == line);
            assert_eq!(pins.count(), 2);
            assert!(numbers(&Kernel::older(line).release) < numbers(&Kernel::newest(line).release));
        }
    }
}
