//! What built an object: the text file that is committed next to it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::tools::{self, Tools};

/// The tools' versions and the object's digest.
pub(crate) struct Record {
    rustc: String,
    bpf_linker: String,
    llvm: String,
    pub(crate) sha256: String,
}

impl Record {
    /// Describes `object`, which `tools` have just built.
    pub(crate) fn of(tools: &Tools, object: &Path) -> Result<Self> {
        Ok(Self {
            rustc: tools.compiler.version.clone(),
            bpf_linker: tools::PINNED_BPF_LINKER.to_owned(),
            llvm: tools.llvm_version.clone(),
            sha256: tools::sha256(object)?,
        })
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let field = |key: &str| {
            value(&text, key).with_context(|| format!("{} lacks `{key}`", path.display()))
        };
        Ok(Self {
            rustc: field("rustc")?,
            bpf_linker: field("bpf-linker")?,
            llvm: field("llvm")?,
            sha256: field("sha256")?,
        })
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let Self {
            rustc,
            bpf_linker,
            llvm,
            sha256,
        } = self;
        let text = format!(
            "# Written by `cargo xtask ebpf`: what built the object beside this file. With these\n\
             # tools `cargo xtask ebpf --check` builds the same bytes from the same sources.\n\
             rustc = \"{rustc}\"\n\
             bpf-linker = \"{bpf_linker}\"\n\
             llvm = \"{llvm}\"\n\
             sha256 = \"{sha256}\"\n"
        );
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// The tools that are not those of `other`, in words; empty when all are.
    pub(crate) fn differences_from(&self, other: &Self) -> Vec<String> {
        [
            ("rustc", &self.rustc, &other.rustc),
            ("bpf-linker", &self.bpf_linker, &other.bpf_linker),
            ("LLVM", &self.llvm, &other.llvm),
        ]
        .into_iter()
        .filter(|(_, here, there)| here != there)
        .map(|(tool, here, there)| format!("{tool} is {here} here, {there} in the record"))
        .collect()
    }

    /// Whether the compiler is the one whose output is committed. The linker always is; LLVM is
    /// pinned to its major version only, since Debian keeps no older one.
    pub(crate) fn is_of_pinned_compiler(&self) -> bool {
        self.rustc == tools::PINNED_RUSTC
    }
}

/// The string of a `key = "value"` line.
fn value(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(llvm: &str) -> Record {
        Record {
            rustc: tools::PINNED_RUSTC.to_owned(),
            bpf_linker: tools::PINNED_BPF_LINKER.to_owned(),
            llvm: llvm.to_owned(),
            sha256: "00".to_owned(),
        }
    }

    #[test]
    fn a_value_is_found_by_its_whole_key() {
        let text = "# rustc = \"comment\"\nrustc-web = \"1\"\nrustc = \"2 (x = y)\"\n";
        assert_eq!(value(text, "rustc").as_deref(), Some("2 (x = y)"));
        assert_eq!(value(text, "llvm"), None);
    }

    #[test]
    fn another_llvm_is_named_with_both_versions() {
        let differences = record("22.1.9").differences_from(&record("22.1.8"));
        assert_eq!(differences, ["LLVM is 22.1.9 here, 22.1.8 in the record"]);
        assert!(
            record("22.1.8")
                .differences_from(&record("22.1.8"))
                .is_empty()
        );
    }
}
