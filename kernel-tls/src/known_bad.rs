//! What kernels are known to do wrong, by line and release.

use crate::version::KernelVersion;

/// A fault of the kernel that no probe finds safely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A TLS socket may be in a sockmap, where its plaintext can reach the wire, or the kernel dies.
    TlsInSockmap,
    /// splice(2) from a TLS socket loses bytes when the pipe is full.
    SpliceLosesBytes,
}

/// What is known of a fault in a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The line's release with the fix is this one or older.
    Fixed,
    /// The fix came with this later release.
    Bad {
        /// The first release with the fix.
        fixed_in: KernelVersion,
    },
    /// Nobody has looked at this line.
    Nothing,
}

impl Fault {
    pub(crate) fn in_version(self, version: KernelVersion) -> Known {
        let line = FIXES.iter().find(|(fault, fixed_in)| {
            *fault == self && (fixed_in.major, fixed_in.minor) == (version.major, version.minor)
        });
        match line {
            None => Known::Nothing,
            Some((_, fixed_in)) if version >= *fixed_in => Known::Fixed,
            Some((_, fixed_in)) => Known::Bad {
                fixed_in: *fixed_in,
            },
        }
    }
}

/// The first release of each line that is free of the fault. For sockmaps by running Debian's
/// releases on both sides (`tests/kernel.rs`: 6.1.187 accepts, 6.1.190 refuses; 6.12.107 accepts,
/// 6.12.111 refuses); for splice by the fix's place in each line.
const FIXES: [(Fault, KernelVersion); 4] = [
    (Fault::TlsInSockmap, KernelVersion::new(6, 1, 190)),
    (Fault::TlsInSockmap, KernelVersion::new(6, 12, 111)),
    (Fault::SpliceLosesBytes, KernelVersion::new(6, 1, 190)),
    (Fault::SpliceLosesBytes, KernelVersion::new(6, 12, 113)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_judged_by_its_own_line() {
        let of = |text: [u32; 3]| {
            let [major, minor, patch] = text;
            Fault::SpliceLosesBytes.in_version(KernelVersion::new(major, minor, patch))
        };
        let bad = |major, minor, patch| Known::Bad {
            fixed_in: KernelVersion::new(major, minor, patch),
        };
        assert_eq!(of([6, 1, 170]), bad(6, 1, 190));
        assert_eq!(of([6, 1, 189]), bad(6, 1, 190));
        assert_eq!(of([6, 1, 190]), Known::Fixed);
        assert_eq!(of([6, 12, 112]), bad(6, 12, 113));
        assert_eq!(of([6, 12, 117]), Known::Fixed);
        assert_eq!(of([6, 6, 300]), Known::Nothing);
        assert_eq!(of([6, 18, 44]), Known::Nothing);
        assert_eq!(of([5, 15, 190]), Known::Nothing);
    }
}
