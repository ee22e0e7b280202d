//! `cargo xtask demo`: the main job on this machine, in one command.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{kernel, packages, release, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    kernel::require()?;
    packages::ensure(&["nginx-light", "curl", "iproute2"])?;
    release::build(&["testbed"])?;
    let demo = release::binary("demo");
    let mut command = Command::new(&demo);
    command.env("SEALWIRE_BIN_DIR", workspace::target().join("release"));
    if options.json {
        command.arg("--json");
    }
    // In our place, so that Ctrl-C reaches it and its exit code is ours.
    Err(command.exec()).with_context(|| format!("starting {}", demo.display()))
}
