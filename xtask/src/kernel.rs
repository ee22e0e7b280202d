//! What the demonstration and the tests need of this machine.

use std::{fs, path::Path};

use anyhow::Result;

use crate::{process::PlatformLacks, workspace};

/// Fails with everything that this machine lacks, in words, or succeeds.
pub(crate) fn require() -> Result<()> {
    let lacking = lacking();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(PlatformLacks(format!(
        "this can't run here:\n  - {}",
        lacking.join("\n  - ")
    ))
    .into())
}

/// What is missing for steering connections, each with what to do about it.
pub(crate) fn lacking() -> Vec<String> {
    let mut lacking = Vec::new();
    let mut need = |there: bool, why: &str| {
        if !there {
            lacking.push(why.to_owned());
        }
    };
    need(
        workspace::is_root(),
        "it is not run as root, which namespaces and eBPF take: \
         `sudo env HOME=\"$HOME\" PATH=\"$PATH\" cargo xtask ...`",
    );
    need(
        release().is_none_or(|version| version >= OLDEST_KERNEL),
        "the kernel is older than 6.1, the oldest on which Sealwire is tested: boot a newer one",
    );
    need(
        field_of("/proc/self/mounts", 2, "cgroup2"),
        "no cgroup2 is mounted: mount one, such as `mount -t cgroup2 none /sys/fs/cgroup`",
    );
    need(
        field_of("/proc/filesystems", 1, "bpf"),
        "the kernel has no BPF file system: it needs CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
    );
    need(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "the kernel carries no BTF: it needs CONFIG_DEBUG_INFO_BTF",
    );
    need(
        Path::new("/proc/self/ns/net").exists(),
        "the kernel has no network namespaces: it needs CONFIG_NET_NS",
    );
    lacking
}

/// Whether a line of `file` has this word as its field `index`.
fn field_of(file: &str, index: usize, word: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| {
        text.lines()
            .any(|line| line.split([' ', '\t']).nth(index) == Some(word))
    })
}

/// Major and minor version of the running kernel.
fn release() -> Option<(u32, u32)> {
    parse_release(&fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Debian 12's, the oldest that the tests run on. The youngest thing that the hooks can't do without,
/// `SO_REUSEADDR` by `bpf_setsockopt`, came with it too.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse_release("6.18.44-fc-v509\n"), Some((6, 18)));
        assert!(parse_release("5.4.0-generic") < Some(OLDEST_KERNEL));
        assert!(parse_release("6.1.0-56-cloud-amd64") >= Some(OLDEST_KERNEL));
        assert_eq!(parse_release("custom"), None);
    }
}
