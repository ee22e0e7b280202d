//! A kernel's modules, with what each needs loaded before it.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// What the tests take of a kernel, beside what it has built in. A name that a kernel does not know
/// is one that it has no need of.
pub(super) const WANTED: [&str; 26] = [
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

/// The module files under `directory` (`lib/modules/RELEASE`) that `wanted` take, in the order in
/// which they are loaded.
pub(super) fn in_order(directory: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let path = directory.join("modules.dep");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let files = Dependencies::parse(&text).in_order(wanted);
    Ok(files.into_iter().map(|file| directory.join(file)).collect())
}

/// `modules.dep` of depmod(8): each file with all that it needs, nearest first.
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

    fn in_order(&self, wanted: &[&str]) -> Vec<&'a str> {
        let mut taken = HashSet::new();
        let mut order = Vec::new();
        for module in wanted {
            let Some((file, needs)) = self.files.get(*module) else {
                continue;
            };
            for file in needs.iter().rev().chain([file]) {
                if taken.insert(*file) {
                    order.push(*file);
                }
            }
        }
        order
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

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let order = Dependencies::parse(DEP).in_order(&["bridge", "stp", "aesni_intel"]);
        assert_eq!(
            order,
            [
                "kernel/net/llc/llc.ko.xz",
                "kernel/net/802/stp.ko.xz",
                "kernel/net/bridge/bridge.ko.xz",
                "kernel/crypto/cryptd.ko",
                "kernel/crypto/crypto_simd.ko",
                "kernel/arch/x86/crypto/aesni-intel.ko",
            ]
        );
    }

    #[test]
    fn a_module_that_is_built_in_is_left_out() {
        assert_eq!(
            Dependencies::parse(DEP).in_order(&["virtio_console", "tls"]),
            ["kernel/net/tls/tls.ko"]
        );
    }
}
