//! The targets, and how often each is run.

use clap::builder::PossibleValuesParser;

/// A program in `fuzz/src/bin`.
pub(super) struct Target {
    pub(super) name: &'static str,
    /// The longest input, in bytes: somewhat more than the longest seed.
    pub(super) max_len: u32,
    /// Which part of the runs it gets: one of so many, where each takes long for its signatures.
    pub(super) part: u64,
}

/// Those that take longest come first, so that no core idles at the end.
pub(super) const TARGETS: &[Target] = &[
    target("history", 4096, 5),
    target("snp_vek", 4096, 1),
    target("tdx_authenticate", 8192, 5),
    target("snp_crl", 2048, 2),
    target("manifest", 8192, 1),
    target("appraise", 24_576, 5),
    target("tdx_collateral", 20_480, 5),
    target("agent_config", 4096, 1),
    target("snp_authenticate", 1200, 1),
    target("mesh_state", 8192, 1),
    target("mesh_api", 4096, 1),
    target("user_api", 8192, 1),
    target("owner_keys", 4096, 1),
    target("reference_values", 4096, 1),
    target("store_objects", 8192, 1),
    target("exchange", 4096, 1),
    target("messages", 4096, 1),
    target("evidence", 24_576, 1),
    target("tdx_quote", 8192, 1),
    target("seed_shares", 8192, 1),
    target("identity", 2048, 1),
    target("simulated_tee_file", 1024, 1),
    target("snp_report", 1200, 1),
    target("transition", 4096, 1),
    target("cert_table", 4096, 1),
    target("contrast_strings", 1024, 1),
    target("dns_answer", 1024, 1),
    target("seed_share", 256, 1),
];

const fn target(name: &'static str, max_len: u32, part: u64) -> Target {
    Target {
        name,
        max_len,
        part,
    }
}

/// What `--target` may be.
pub(super) fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(TARGETS.iter().map(|it| it.name))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;
    use crate::workspace;

    #[test]
    fn every_target_is_run_once() {
        let files: BTreeSet<_> = fs::read_dir(workspace::root().join("fuzz/src/bin"))
            .unwrap()
            .map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.strip_suffix(".rs").unwrap().to_owned()
            })
            .collect();
        let listed: BTreeSet<_> = TARGETS.iter().map(|it| it.name.to_owned()).collect();
        assert_eq!(files, listed);
        assert_eq!(listed.len(), TARGETS.len());
    }
}
