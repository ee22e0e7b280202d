//! Getting Debian's cloud kernels. Nothing is installed: the packages are unpacked where git ignores
//! them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context as _, Result};

use super::{kernels::Line, run};
use crate::{
    packages,
    process::{self as other, PlatformLacks},
};

/// A release that is unpacked here.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// As `uname -r` has it.
    pub(crate) release: String,
    directory: PathBuf,
}

impl Fetched {
    pub(super) fn image(&self) -> PathBuf {
        self.directory
            .join("boot")
            .join(format!("vmlinuz-{}", self.release))
    }

    pub(super) fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }
}

/// A release that can be downloaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Available {
    /// As `uname -r` has it, less the flavour.
    pub(super) release: String,
    /// The package's.
    pub(super) version: String,
}

/// The releases of a line that can be downloaded, oldest first.
pub(super) fn available(line: Line) -> Result<Vec<Available>> {
    let prefix = format!("{PACKAGE}{}", line.prefix());
    let names = other::stdout_of(Command::new("apt-cache").args(["pkgnames", &prefix]))
        .context("asking apt for kernels")?;
    let packages: Vec<_> = names
        .lines()
        .filter(|name| name.ends_with(FLAVOUR))
        .collect();
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let table = other::stdout_of(Command::new("apt-cache").arg("madison").args(packages))
        .context("asking apt for the kernels' versions")?;
    Ok(parse_madison(&table))
}

/// Lines of `package | version | source`. apt knows names that no source has any more; those have
/// none.
fn parse_madison(table: &str) -> Vec<Available> {
    let mut there: Vec<Available> = Vec::new();
    for line in table.lines() {
        let mut cells = line.split('|').map(str::trim);
        let Some((package, version)) = cells.next().zip(cells.next()) else {
            continue;
        };
        let release = package
            .strip_prefix(PACKAGE)
            .and_then(|rest| rest.strip_suffix(FLAVOUR));
        if let Some(release) = release
            && there.iter().all(|known| known.release != release)
        {
            there.push(Available {
                release: release.to_owned(),
                version: version.to_owned(),
            });
        }
    }
    there.sort_by_key(|kernel| numbers(&kernel.release));
    there
}

/// Numbers in a release's name, by which they are told older from newer.
pub(super) fn numbers(release: &str) -> Vec<u32> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Whether it is unpacked here.
pub(super) fn is_here(release: &str) -> bool {
    cache().join(release).exists()
}

/// Downloads and unpacks a release, unless it is here; in this version of its package, if it says.
///
/// Fails with [`PlatformLacks`] where it can't be had.
pub(super) fn fetch(release: &str, version: Option<&str>) -> Result<Fetched> {
    packages::ensure(&TOOLS)?;
    let directory = cache().join(release);
    if !directory.exists() {
        let package = match version {
            Some(version) => format!("{PACKAGE}{release}{FLAVOUR}={version}"),
            None => format!("{PACKAGE}{release}{FLAVOUR}"),
        };
        download(&package, &directory)
            .map_err(|error| PlatformLacks(format!("{package} can't be had: {error:#}")))?;
    }
    let fetched = Fetched {
        release: format!("{release}{FLAVOUR}"),
        directory,
    };
    if fetched.image().exists() {
        return Ok(fetched);
    }
    let here = fetched.directory.display();
    Err(PlatformLacks(format!("{here} has no kernel; remove it and try again")).into())
}

/// Complete or not there: it is unpacked beside its place.
fn download(package: &str, directory: &Path) -> Result<()> {
    other::step(format!("downloading {package}"));
    let part = cache().join(format!(".part-{}", process::id()));
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    let unpacked = unpack(package, &part).and_then(|()| {
        match fs::rename(&part, directory) {
            // Somebody else was faster.
            Err(_) if directory.exists() => Ok(()),
            moved => moved.with_context(|| format!("making {}", directory.display())),
        }
    });
    let _ = fs::remove_dir_all(&part);
    unpacked
}

fn unpack(package: &str, part: &Path) -> Result<()> {
    let download = || {
        other::run(
            other::quiet_stdout("apt-get")
                .current_dir(part)
                // As root it would hand the download to a user that may not write there.
                .args(["-qq", "-o", "APT::Sandbox::User=root", "download", package]),
        )
    };
    if download().is_err() {
        other::run(other::quiet_stdout("apt-get").args(["-qq", "update"]))?;
        download()?;
    }
    let archive = fs::read_dir(part)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|it| it == "deb"))
        .context("apt-get downloaded nothing")?;
    other::run(
        other::quiet_stdout("dpkg-deb")
            .arg("-x")
            .args([&archive, part]),
    )?;
    fs::remove_file(archive)?;
    for entry in fs::read_dir(part.join("lib/modules"))? {
        let release = entry?.file_name();
        other::run(
            other::quiet_stdout("depmod")
                .arg("-b")
                .arg(part)
                .arg(release),
        )?;
    }
    Ok(())
}

fn cache() -> PathBuf {
    run::place().join("kernels")
}

const PACKAGE: &str = "linux-image-";

/// What their names end with: small, as they leave out drivers for real devices.
pub(super) const FLAVOUR: &str = "-cloud-amd64";

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
    fn what_apt_has_is_told_oldest_first() {
        let table = "\
linux-image-6.1.0-9-cloud-amd64 | 6.1.27-1 | http://deb.debian.org/debian bookworm/main amd64 Packages
linux-image-6.1.0-56-cloud-amd64 | 6.1.192-2 | http://deb.debian.org/debian-security bookworm-security/main amd64 Packages
linux-image-6.1.0-56-cloud-amd64 | 6.1.192-1 | http://deb.debian.org/debian bookworm/main amd64 Packages
linux-image-6.1.0-47-cloud-amd64 | 6.1.170-3 | http://deb.debian.org/debian bookworm/main amd64 Packages
linux-signed-amd64 | 6.1.192+2 | http://deb.debian.org/debian bookworm/main Sources
";
        let told: Vec<_> = parse_madison(table)
            .into_iter()
            .map(|kernel| (kernel.release, kernel.version))
            .collect();
        let expected = [
            ("6.1.0-9", "6.1.27-1"),
            ("6.1.0-47", "6.1.170-3"),
            ("6.1.0-56", "6.1.192-2"),
        ];
        assert_eq!(
            told,
            expected.map(|(release, version)| (release.to_owned(), version.to_owned()))
        );
    }

    #[test]
    fn nothing_to_be_had_is_nothing() {
        assert_eq!(parse_madison(""), []);
    }
}
