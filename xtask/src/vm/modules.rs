//! A kernel's modules, with what each needs.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// What the tests take of a kernel, beside what it has built in. A name that a kernel does not know
/// is one that it has no need of.
pub(super) const WANTED: [&str; 27] = [
    // the machine
    "virtio_pci",
    "virtio_console",
    // kernel TLS and the ciphers that it asks for by name
    "tls",
    "gcm",
    "ccm",
    "ctr",
    "ghash_generic",
    "ghash_clmulni_intel",
    "aesni_intel",
    "chacha20poly1305",
    "chacha_x86_64",
    "poly1305_x86_64",
    "sha256_ssse3",
    // hosts and what is between them
    "veth",
    "bridge",
    "dummy",
    "sch_netem",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "cls_matchall",
    "nf_tables",
    "nft_numgen",
    // what looks at them
    "inet_diag",
    "tcp_diag",
    "af_packet_diag",
    "tcp_bbr",
];

/// The module files under `directory` (`lib/modules/RELEASE`) that `wanted` take, relative to it.
pub(super) fn with_dependencies(directory: &Path, wanted: &[&str]) -> Result<BTreeSet<PathBuf>> {
    let path = directory.join("modules.dep");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let files = Dependencies::parse(&text).closure(wanted);
    Ok(files.into_iter().map(PathBuf::from).collect())
}

/// `modules.dep` of depmod(8): each file with all that it needs, directly or not.
struct Dependencies<'a> {
    files: HashMap<String, (&'a str, Vec<&'a str>)>,
}

impl<'a> Dependencies<'a> {
    fn parse(text: &'a str) -> Self {
        let files = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| (name(file), (file, needs.split_whitespace().collect())))
            .collect();
        Self { files }
    }

    fn closure(&self, wanted: &[&str]) -> BTreeSet<&'a str> {
        wanted
            .iter()
            .filter_map(|module| self.files.get(*module))
            .flat_map(|(file, needs)| needs.iter().chain([file]).copied())
            .collect()
    }
}

/// A module's name as the kernel writes it.
fn name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split('.').next().unwrap_or(base).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/net/tls/tls.ko:
kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz
kernel/net/802/stp.ko.xz: kernel/net/llc/llc.ko.xz
kernel/net/llc/llc.ko.xz:
kernel/arch/x86/crypto/aesni-intel.ko: kernel/crypto/crypto_simd.ko kernel/crypto/cryptd.ko
";

    fn closure(wanted: &[&str]) -> Vec<&'static str> {
        Dependencies::parse(DEP)
            .closure(wanted)
            .into_iter()
            .collect()
    }

    #[test]
    fn a_module_brings_all_that_it_needs_once() {
        assert_eq!(
            closure(&["bridge", "stp"]),
            [
                "kernel/net/802/stp.ko.xz",
                "kernel/net/bridge/bridge.ko.xz",
                "kernel/net/llc/llc.ko.xz",
            ]
        );
    }

    #[test]
    fn a_file_named_with_dashes_is_a_module_with_underscores() {
        assert_eq!(
            closure(&["aesni_intel"]),
            [
                "kernel/arch/x86/crypto/aesni-intel.ko",
                "kernel/crypto/cryptd.ko",
                "kernel/crypto/crypto_simd.ko",
            ]
        );
    }

    #[test]
    fn a_module_that_is_built_in_is_left_out() {
        assert_eq!(
            closure(&["virtio_console", "tls"]),
            ["kernel/net/tls/tls.ko"]
        );
    }
}
