//! Release builds of Sealwire's binaries.

use std::path::PathBuf;

use anyhow::Result;

use crate::{packages, process, workspace};

/// The binaries that an operator installs.
pub(crate) const PRODUCT: [&str; 2] = ["sealwire-agent", "sealwire"];

/// Builds the product and `binary`; answers where `binary` lies.
pub(crate) fn build_with(binary: &str) -> Result<PathBuf> {
    build(&[PRODUCT[0], PRODUCT[1], binary])?;
    Ok(workspace::target().join("release").join(binary))
}

/// Builds these binaries of the workspace.
pub(crate) fn build(binaries: &[&str]) -> Result<()> {
    // aws-lc-sys compiles C; it takes neither cmake nor clang on x86-64 and AArch64.
    packages::ensure(&["gcc", "libc6-dev"])?;
    process::step(format!("building {} (release)", binaries.join(", ")));
    process::run(
        workspace::cargo()
            .args(["build", "--release"])
            .args(binaries.iter().flat_map(|binary| ["--bin", binary])),
    )
}
