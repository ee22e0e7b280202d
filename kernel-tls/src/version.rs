//! Which kernel runs, by the version that its fixes are counted in.

use std::fmt;
use std::fs;

/// A kernel's version as its maintainers count it: of Debian's
/// `6.1.0-51-cloud-amd64 ... Debian 6.1.192-1` it is 6.1.192.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second; both together name a line.
    pub minor: u32,
    /// The third: which of the line's releases.
    pub patch: u32,
}

impl KernelVersion {
    /// A version of these three numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// The version of the kernel that runs; `None` where it can't be told.
    pub fn running() -> Option<Self> {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self::told(&text("/proc/version"), &text("/proc/version_signature"))
    }

    /// Debian names the true version in /proc/version, Ubuntu in a file of its own. Elsewhere it is
    /// what `uname -r` says.
    fn told(version: &str, signature: &str) -> Option<Self> {
        let behind = |marker| Some(version.split_once(marker)?.1);
        let debian = behind(" Debian ").and_then(Self::leading);
        let ubuntu = signature.split_whitespace().nth(2).and_then(Self::leading);
        let upstream = || behind("Linux version ").and_then(Self::leading);
        debian.or(ubuntu).or_else(upstream)
    }

    /// The version at the beginning of `text`.
    fn leading(text: &str) -> Option<Self> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let mut numbers = text[..end].split('.').map(str::parse);
        let major = numbers.next()?.ok()?;
        let minor = numbers.next()?.ok()?;
        let patch = numbers.next().map_or(Some(0), Result::ok)?;
        Some(Self::new(major, minor, patch))
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            major,
            minor,
            patch,
        } = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_counts_is_found_as_each_distribution_writes_it() {
        for (version, signature, told) in [
            (
                "Linux version 6.1.0-51-cloud-amd64 (debian-kernel@lists.debian.org) (gcc-12 \
                 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40) #1 SMP \
                 PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-20)",
                "",
                "6.1.192",
            ),
            (
                "Linux version 6.12.117+deb12-cloud-amd64 (debian-kernel@lists.debian.org) \
                 (x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld) #1 SMP \
                 PREEMPT_DYNAMIC Debian 6.12.117-1~deb12u1 (2026-11-01)",
                "",
                "6.12.117",
            ),
            (
                "Linux version 6.8.0-45-generic (buildd@lcy02-amd64-115) (x86_64-linux-gnu-gcc-13) \
                 #45-Ubuntu SMP PREEMPT_DYNAMIC Fri Aug 30 12:02:04 UTC 2024",
                "Ubuntu 6.8.0-45.45-generic 6.8.12\n",
                "6.8.12",
            ),
            (
                "Linux version 6.18.44-fc-v657 (root@vm) (gcc) #1 SMP PREEMPT_DYNAMIC",
                "",
                "6.18.44",
            ),
            ("Linux version 6.19-rc3 (root@vm) (gcc)", "", "6.19.0"),
        ] {
            let found = KernelVersion::told(version, signature).unwrap();
            assert_eq!(found.to_string(), told);
        }
    }

    #[test]
    fn what_is_no_version_is_none() {
        for version in [
            "",
            "Linux version ",
            "Linux version x.y",
            "FreeBSD 14",
            "Linux version 6",
        ] {
            assert_eq!(KernelVersion::told(version, ""), None, "{version}");
        }
        let huge = "Linux version 6.99999999999.1";
        assert_eq!(KernelVersion::told(huge, "a b 99999999999.1"), None);
    }

    #[test]
    fn this_kernel_has_a_version() {
        assert!(KernelVersion::running().unwrap() > KernelVersion::new(4, 0, 0));
    }
}
