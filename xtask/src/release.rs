//! Release builds of Sealwire's binaries.

use std::path::PathBuf;

use anyhow::Result;

use crate::{packages, process, workspace};

/// Builds what an operator installs, and every binary of the packages in `besides`.
pub(crate) fn build(besides: &[&str]) -> Result<()> {
    packages::ensure_to_build()?;
    let chosen = [&PRODUCT, besides].concat();
    process::step(format!("building {} (release)", chosen.join(", ")));
    process::run(
        workspace::cargo()
            .args(["build", "--release", "--bins", "--features", FEATURES])
            .args(chosen.iter().flat_map(|package| ["--package", package])),
    )
}

/// Where a release build puts a binary.
pub(crate) fn binary(name: &str) -> PathBuf {
    directory().join(name)
}

/// Where a release build puts its binaries.
pub(crate) fn directory() -> PathBuf {
    workspace::target().join("release")
}

/// The packages of `sealwire-agent`, `sealwire-coordinator` and `sealwire`.
const PRODUCT: [&str; 3] = ["agent", "coordinator", "sealwire-cli"];

/// What an operator can have and a build leaves out unless told.
const FEATURES: &str = "agent/otlp";
